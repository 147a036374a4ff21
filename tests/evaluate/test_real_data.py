"""Runs on real pictures with the mini-world's small CLIP, which has never seen any: the numbers mean little."""

from raylab.config import parse
from raylab.evaluate.run import run
from raylab.recipes.evaluate import EVALUATE


def evaluate(tmp_path, *line):
    fixed = ["--recipe", "miniworld", "--no-plots", "--threads", "1", "--out", str(tmp_path)]
    summary = run(parse(EVALUATE, "miniworld", [*fixed, *map(str, line)], ""))
    return {score["metric"] + " " + score["part"]: score for score in summary["scores"]}, summary


def test_imagenet_sample_by_lines(shared_data, tmp_path):
    data = f"{shared_data}/imagenet_sample_1000#label=wnid,title=lemmas,rows=100"
    found, summary = evaluate(tmp_path, "--suite", "retrieval,zero_shot", "--data", data)
    assert found["top-1 all"]["count"] == 100
    assert "mAP all" not in found  # one image a class: nothing to find
    assert summary["refused"] == {}


def test_grocery_by_parquet_with_a_probe(shared_data, tmp_path):
    val, train = (
        f"{shared_data}/grocery_81/{part}.parquet#label=coarse,title=coarse_name" for part in ("val", "train")
    )
    line = ["--data", f"{val},rows=120", "--probe.train", f"{train},rows=240", "--matching.memory", f"{train},rows=240"]
    found, _ = evaluate(
        tmp_path, "--suite", "retrieval,zero_shot,probe,matching", *line, "--probe.strengths", "1", "100"
    )
    assert found["top-1 given"]["value"] > 0.1  # products of one shelf look alike even to this model
    assert found["@1 all"]["count"] <= 120 == found["top-1 all"]["count"]


def test_tiny_imagenet_by_a_glob_of_parquet(shared_data, tmp_path):
    data = f"{shared_data}/tiny_imagenet_200/train-0[0-1].parquet#label=qid,title=name,rows=200"
    found, _ = evaluate(tmp_path, "--suite", "retrieval,zero_shot", "--data", data)
    assert found["top-5 all"]["count"] == 200
    assert found["top-5 all"]["value"] >= found["top-1 all"]["value"]


def test_oven_mini_in_ovens_own_schema(shared_data, tmp_path):
    from raylab.kb.build import BuildConfig, build

    kb = tmp_path / "kb"
    build(BuildConfig(str(kb), ("miniworld://",), workers=1, context=False))
    questions = f"{shared_data}/oven_mini_12/metadata.jsonl"
    found, summary = evaluate(tmp_path / "out", "--suite", "oven", "--kb", kb, "--oven.questions", questions)
    assert found["accuracy all"]["count"] == 12
    assert found["accuracy all"]["value"] == 0  # the mini-world's entities answer none of these
    assert (tmp_path / "out" / "oven_predictions.jsonl").read_text().count("\n") == 12
    assert summary["refused"] == {}


def test_the_mini_worlds_questions_are_answered_by_its_clip(tmp_path):
    from raylab.kb.build import BuildConfig, build

    kb = tmp_path / "kb"
    build(BuildConfig(str(kb), ("miniworld://",), workers=1, context=False))
    line = ["--suite", "oven", "--kb", kb, "--oven.questions", "miniworld://?rows=300&seed=903", "--oven.official"]
    found, _ = evaluate(tmp_path / "out", *line)
    assert found["accuracy entity/seen"]["value"] > found["accuracy query/seen"]["value"]
    assert found["HM final"]["value"] > 0
