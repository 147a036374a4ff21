import base64
import json
import re

import pytest
from evaluate.small_git import saved_git
from train.training_store import make_store
from wandb_files import read_wandb, wandb_folders

from raylab.config import parse
from raylab.errors import RaylabError
from raylab.evaluate.plan import SUITE, EvaluateConfig, check
from raylab.evaluate.run import run
from raylab.evaluate.suite import build
from raylab.evaluate.summary import headline, table
from raylab.recipes.evaluate import EVALUATE


@pytest.mark.parametrize("recipe", EVALUATE)
def test_a_recipe_is_a_config_of_its_own_name(recipe):
    config = parse(EVALUATE, "standard", ["--recipe", recipe, "--out", "x", "--model", "m"], "")
    assert config.recipe == recipe
    assert check(config)


def valid(**settings) -> EvaluateConfig:
    return EvaluateConfig(**{"model": "m", "out": "o", "data": "miniworld://?rows=20", "plots": False} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": ""}, "--out is missing"),
        ({"suite": "retreival"}, "no benchmark 'retreival'. Did you mean 'retrieval'"),
        ({"suite": " , "}, "--suite is empty"),
        ({"model": ""}, "--model is missing"),
        ({"suite": "oven"}, "--kb is missing"),
        ({"batch": 0}, "--batch"),
        ({"workers": -1}, "--workers"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_opened(settings, message):
    with pytest.raises(RaylabError, match=message):
        check(valid(**settings))


def test_the_suite_runs_in_the_tables_order_and_needs_no_model_for_labels():
    assert check(valid(suite="label_quality, oven,retrieval", kb="kb")) == ["oven", "retrieval", "label_quality"]
    assert check(valid(suite="label_quality", model="")) == ["label_quality"]


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("oven", "--oven.questions"),
        ("gpr1200", "--gpr1200.data"),
        ("retrieval", "--retrieval.data"),
        ("zero_shot", "--zero-shot.data"),
        ("probe", "--probe.test"),
        ("matching", "--matching.data"),
        ("label_quality", "--label-quality.labels"),
    ],
)
def test_missing_data_is_answered_with_its_flag(name, flag):
    with pytest.raises(RaylabError, match=f"{flag} is missing"):
        build(valid(suite=name, data=""), [name])


def test_data_beside_the_images_is_asked_for_too():
    with pytest.raises(RaylabError, match=r"--probe.train is missing"):
        build(valid(), ["probe"])
    with pytest.raises(RaylabError, match=r"--matching.memory is missing"):
        build(valid(), ["matching"])


def test_a_set_that_two_benchmarks_name_is_opened_once():
    benchmarks = build(valid(), ["retrieval", "zero_shot"])
    assert benchmarks["retrieval"]._images is benchmarks["zero_shot"]._images


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "out"
    config = parse(EVALUATE, "smoke", ["--out", str(out), "--threads", "1"], "")
    return out, run(config)


def test_a_run_leaves_scores_config_and_report(finished):
    out, summary = finished
    assert json.loads((out / "scores.json").read_text()) == summary
    assert {score["benchmark"] for score in summary["scores"]} == {"retrieval", "zero_shot", "probe", "matching"}
    assert [re.fullmatch(r"clip@[0-9a-f]{12}", model) is not None for model in summary["models"]] == [True]
    assert json.loads((out / "config.json").read_text())["recipe"] == "smoke"
    assert not (out / "plots").exists()
    html = (out / "report.html").read_text()
    assert "leave-one-out" in html and "scores.json" in html and "<script" not in html


def test_the_mini_worlds_clip_knows_its_world(finished):
    found = headline(finished[1])["scores"]
    assert found["zero_shot/prompt-ensemble/all/top-1"] > 0.3
    assert found["retrieval/leave-one-out/all/mAP"] > 0.3


def test_the_table_and_the_headline_hold_every_score(finished):
    _, summary = finished
    shown, last = table(summary), headline(summary)
    assert len(last["scores"]) == len(summary["scores"])
    for score in summary["scores"]:
        cells = [score[name] for name in ("benchmark", "protocol", "part", "metric")]
        wanted = " +".join(map(re.escape, [*cells, f"{100 * score['value']:.2f}", f"{score['count']:,}"]))
        assert re.search(rf"^{wanted}$", shown, re.MULTILINE)
    assert shown.splitlines()[-1].endswith("report.html")


def test_plots_lie_in_the_folder_in_the_report_and_in_wandb(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    line = ["--recipe", "smoke", "--plots", "--suite", "retrieval", "--out", str(tmp_path)]
    line += ["--data", "miniworld://?rows=150", "--track.project", "flags"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    summary = run(parse(EVALUATE, "smoke", line, ""))
    assert len(summary["plots"]) == 3
    html = (tmp_path / "report.html").read_text()
    for name in summary["plots"]:
        assert base64.b64encode((tmp_path / name).read_bytes()).decode() in html
    (told,) = map(read_wandb, wandb_folders(tmp_path))
    assert all(told.captions(name.removesuffix(".png")) for name in summary["plots"])


def test_ray_gives_the_scores_of_this_process(finished, ray_cluster, tmp_path):
    line = [
        "--recipe",
        "smoke",
        "--out",
        str(tmp_path),
        "--workers",
        "2",
        "--threads",
        "1",
        "--suite",
        "retrieval,zero_shot",
    ]
    there = headline(run(parse(EVALUATE, "smoke", [*line, "--suite", "retrieval,zero_shot"], "")))["scores"]
    here = headline(finished[1])["scores"]
    assert there == pytest.approx({name: here[name] for name in there}, abs=0.01)


@pytest.fixture(scope="module")
def git(tmp_path_factory):
    """A generative recogniser's run, and the flags by which it is asked."""
    folder = tmp_path_factory.mktemp("git")
    store = make_store(folder, rows=24, parts=1)
    run_folder = saved_git(store, folder / "run")
    line = ["--recipe", "smoke", "--model", str(run_folder), "--kb", store.kb, "--suite", "oven,zero_shot"]
    line += ["--threads", "1", "--data", "miniworld://?rows=12", "--oven.questions", "miniworld://?rows=60&seed=903"]
    return [*line, "--decoding.beams", "4", "--oven.top", "3"]


@pytest.fixture(scope="module")
def scored(git, tmp_path_factory):
    return run(parse(EVALUATE, "smoke", [*git, "--out", str(tmp_path_factory.mktemp("scored"))], ""))


def test_a_generative_model_goes_through_the_job(scored):
    protocols = {(score["benchmark"], score["protocol"]) for score in scored["scores"]}
    assert protocols == {("oven", "every-question"), ("zero_shot", "constrained-titles")}
    assert all(score["count"] > 0 for score in scored["scores"])
    assert [re.fullmatch(r"run@[0-9a-f]{12}", model) is not None for model in scored["models"]] == [True]
    assert scored["config"]["decoding"] == {"beams": 4, "constrained": True}


def test_ray_gives_a_generative_models_scores(git, scored, ray_cluster, tmp_path):
    there = run(parse(EVALUATE, "smoke", [*git, "--workers", "1", "--out", str(tmp_path)], ""))
    assert headline(there)["scores"] == pytest.approx(headline(scored)["scores"], abs=0.05)
    assert there["models"] == scored["models"]


def test_a_generative_model_embeds_nothing_and_says_so_before_it_is_asked(git, tmp_path):
    said = (
        r"is a generative model and embeds no images: leave retrieval, probe out of --suite\. It takes oven, zero_shot"
    )
    with pytest.raises(RaylabError, match=said):
        run(parse(EVALUATE, "smoke", [*git, "--suite", "oven,retrieval,probe", "--out", str(tmp_path)], ""))
    assert not list(tmp_path.iterdir())


def test_a_model_that_writes_codes_is_asked_for_no_titles(git, tmp_path):
    (tmp_path / "git.json").write_text('{"codes": true}')
    line = [*git, "--suite", "oven,zero_shot", "--model", str(tmp_path), "--out", str(tmp_path / "scores")]
    with pytest.raises(RaylabError, match=r"writes ALD codes of entities: leave zero_shot out of --suite"):
        run(parse(EVALUATE, "smoke", line, ""))


def test_every_benchmark_of_the_suite_can_be_built():
    assert set(SUITE) == {
        "oven",
        "gpr1200",
        "retrieval",
        "zero_shot",
        "embedding",
        "probe",
        "matching",
        "label_quality",
    }
