"""Requests in, answers out, on Ray Data: by vLLM in the job's own actors, or by a server at an address."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from raylab.annotate.engines import replies, vllm_engine
from raylab.annotate.engines.guard import ANSWER_COLUMN, Watch, guarded
from raylab.annotate.engines.http import ChatServer
from raylab.annotate.engines.turns import OneTurn, Talk, take_turns
from raylab.annotate.plan import EngineConfig
from raylab.annotate.records import ANSWER
from raylab.errors import RaylabError
from raylab.label.isolate import Ledger
from raylab.session import READ_CPUS

SENDER_CPUS = 0.25
"""A process that sends requests waits most of the time."""
ROW_CPUS = 0.1
"""The tasks behind vLLM's stage copy rows and do nothing else."""


def answer(
    requests: ray.data.Dataset, engine: EngineConfig, ledger: Ledger, talk: Talk | None = None
) -> ray.data.Dataset:
    """Answer each request once, and what its answer leads to, in any order. Nothing starts before the result is read.

    Args:
        requests: rows of `records.REQUEST`, at most one a segment and row.
        engine: the model, and where it runs.
        ledger: outlives the engines' processes; tells which requests were in hand when one died.
        talk: takes answers in the process where they were made, before they travel on, and asks what they lead to;
            None: nothing further.

    Returns:
        Rows of `records.ANSWER`.

    Raises:
        RaylabError: the model cannot be had, or vLLM is not installed. While the result is read, it comes wrapped by
            Ray (see `session.plain_errors`): the engine does not start or died too often, the server does not answer.
    """
    requests.context.raise_original_map_exception = True  # whoever made the dataset; see `streams`
    talk = talk or OneTurn()
    if engine.is_address:
        return _by_address(requests, engine, ledger, talk)
    return _by_vllm(requests, Watch(engine, ledger, _this_actor, talk))


def needed(engine: EngineConfig) -> tuple[float, float]:
    """Return the CPUs and GPUs without which `answer` cannot start."""
    if engine.is_address:
        return engine.min_actors * SENDER_CPUS, 0.0
    shares = engine.tensor_parallel
    cpus = ROW_CPUS + engine.min_actors * shares * engine.num_cpus
    return cpus, engine.min_actors * shares * engine.num_gpus


def _by_address(requests: ray.data.Dataset, engine: EngineConfig, ledger: Ledger, talk: Talk) -> ray.data.Dataset:
    batches = max(1, math.ceil(engine.concurrency / engine.batch_rows))
    return requests.map_batches(
        _Sender,
        batch_size=engine.batch_rows,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(
            min_size=engine.min_actors, max_size=engine.max_actors, max_concurrent_calls_per_actor=batches
        ),
        num_cpus=SENDER_CPUS,
        fn_constructor_kwargs={"engine": engine, "ledger": ledger, "talk": talk},
    )


class _Sender:
    """An actor that sends requests to the server. The key is read here: it travels with nothing."""

    def __init__(self, engine: EngineConfig, ledger: Ledger, talk: Talk) -> None:
        self._ledger = ledger
        self._talk = talk
        self._server = ChatServer(engine, key=os.environ.get(engine.api_key_env, ""))

    async def __call__(self, batch: pa.Table) -> pa.Table:
        if not batch.num_rows:
            return ANSWER.empty_table()
        return replies.table(await take_turns(batch.to_pylist(), self._ask, self._talk, self._ledger))

    async def _ask(self, requests: list[dict[str, Any]], in_hand: bool) -> list[dict[str, Any]]:
        return await self._server.answer_all(requests, self._talk.keep)


def _by_vllm(requests: ray.data.Dataset, watch: Watch) -> ray.data.Dataset:
    engine = watch.engine
    model_config = vllm_engine.check(engine)
    processor = _processor(engine, vllm_engine.arguments(engine, model_config))
    stage = processor.get_stage_by_name(processor.list_stage_names()[0])
    # The stage's validators run again when `fn` is set and spoil these two; their contents are changed in place.
    constructor, options = dict(stage.fn_constructor_kwargs), dict(stage.map_batches_kwargs)
    stage.fn = guarded(stage.fn)
    _refill(stage.fn_constructor_kwargs, constructor | {"watch": watch})
    # One restart more than there may be: it starts no engine, it says why the run ends.
    _refill(stage.map_batches_kwargs, options | {"max_restarts": engine.max_restarts + 1})
    # Its own maps around the stage go row by row, each in tasks of their own; these go with the tasks that are there.
    processor.preprocess = processor.postprocess = None
    handed_in = requests.map_batches(
        partial(_handed_in, processor.DATA_COLUMN), batch_size=None, batch_format="pyarrow", num_cpus=READ_CPUS
    )
    unpacked = partial(_unpacked, processor.DATA_COLUMN)
    return processor(handed_in).map_batches(unpacked, batch_size=None, batch_format="pyarrow", num_cpus=ROW_CPUS)


def _processor(engine: EngineConfig, arguments: dict[str, Any]) -> Any:
    """Return ray.data.llm's processor with its stages for templates, tokens and pictures left out.

    Each would be one more pool of processes; the engine's own process does their work in threads (`guard`).
    """
    environment = vllm_engine.environment(engine)
    os.environ.update(environment)  # this process imports vLLM too, which logs, and counts its users, if nobody objects
    try:
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig
    except ImportError as error:
        raise RaylabError(f"ray.data.llm cannot be imported ({error}): {vllm_engine.INSTALL}") from error
    from raylab.assets import locate

    bundle = {"CPU": engine.num_cpus} | ({"GPU": engine.num_gpus} if engine.num_gpus else {})
    config = vLLMEngineProcessorConfig(
        model_source=locate(engine.model),
        engine_kwargs=arguments,
        runtime_env={"env_vars": environment},
        batch_size=engine.batch_rows,
        max_concurrent_batches=engine.concurrent_batches,
        concurrency=(engine.min_actors, engine.max_actors),
        placement_group_config={"bundles": [bundle] * engine.tensor_parallel},
        should_continue_on_error=True,
        log_engine_metrics=False,  # its exporter hangs on ray.serve, and the engine's statistics are off
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        prepare_multimodal_stage=False,
    )
    return build_processor(config)


def _handed_in(data_column: str, requests: pa.Table) -> pa.Table:
    """Put requests into the one column that the stage reads, with what it insists on: `guard` fills that in."""
    insisted_on = pa.array([{"n": 1}] * len(requests), pa.struct([("n", pa.int64())]))
    rows = requests.append_column("sampling_params", insisted_on).combine_chunks().to_struct_array()
    return pa.table({data_column: rows})


def _unpacked(data_column: str, answered: pa.Table) -> pa.Table:
    packed = pc.struct_field(answered[data_column], ANSWER_COLUMN).to_pylist() if answered.num_rows else []
    return replies.unpack(packed)


def _refill(target: dict[str, Any], content: Mapping[str, Any]) -> None:
    target.clear()
    target.update(content)


def _this_actor() -> str:
    return ray.get_runtime_context().get_actor_id() or ""
