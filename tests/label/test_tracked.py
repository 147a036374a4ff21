"""What W&B is told of a finished labeling run, read back from its offline files."""

from pathlib import Path

import pytest
from label.finished_run import DrawnSource, make_kb, make_run
from wandb_files import WandBFile, read_wandb, wandb_folders

from raylab.annotate.plan import AblationConfig, RewConfig
from raylab.label.plan import LabelConfig
from raylab.label.report import write_report
from raylab.label.tracked import track
from raylab.sources.base import Limits
from raylab.storage import Folder
from raylab.tracking import TrackingConfig


def tell(folder: Path, project: str = "flags", **settings: bool) -> tuple[dict, Path]:
    make_kb(folder)
    run = make_run(folder / "run", rows=200, **settings)
    out = Folder(str(run.out))
    exhibits = write_report(out, run.summary, run.labels, run.rejects, DrawnSource(), Limits())
    track(LabelConfig(track=TrackingConfig(project)), out, run.summary, exhibits)
    track(LabelConfig(track=TrackingConfig(project)), out, run.summary, exhibits)  # the same line again
    return run.summary, run.out


def told(out: Path) -> WandBFile:
    (folder,) = wandb_folders(out)
    return read_wandb(folder)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_a_labeling_run(tmp_path: Path) -> None:
    summary, out = tell(tmp_path)
    run = told(out)
    assert (run.job_type, run.project) == ("label", "flags")
    assert run.config["recipe"] == "i2e"
    steps = run.table("steps")
    assert [(one["name"], one["rows_in"], one["rows_out"]) for one in steps] == [
        (one["name"], one["rows_in"], one["rows_out"]) for one in summary["steps"]
    ]
    rejected = run.table("rejected")
    assert sum(one["rows"] for one in rejected) == summary["rejected"]
    assert {one["reason"] for one in rejected} <= set(summary["reasons"])
    assert run.table("entities")[0]["images"] == summary["entities"]["top"][0][2]
    assert run.summary["labelled"] == summary["labelled"]
    assert run.summary["truth"]["select"]["precision"] == 0.957
    assert {"config.json", "summary.json", "report.html"} <= set(run.files)


def test_samples_say_what_was_decided(tmp_path: Path) -> None:
    _, out = tell(tmp_path)
    captions = told(out).captions("samples/Labelled, sure")
    assert captions
    for caption in captions:
        label, truth, *rest = caption.split("\n")
        assert label.endswith(")") and "(0." in label
        assert truth.startswith("truth: ")
        assert rest


def test_an_annotation_run(tmp_path: Path) -> None:
    summary, out = tell(tmp_path, annotated=True)
    run = told(out)
    assert run.job_type == "annotate"
    assert run.summary["annotation"]["corrected"] == summary["annotation"]["corrected"]
    assert all("corrected, was " in caption for caption in run.captions("samples/Corrected"))


def test_without_a_project_nothing_is_kept(tmp_path: Path) -> None:
    _, out = tell(tmp_path, project="")
    assert not wandb_folders(out)


def test_of_an_annotation_run_from_pairs_one_run_is_told() -> None:
    config = RewConfig(track=TrackingConfig("flags"))
    assert config.labeling("out/candidates").track.project == ""


def test_the_targets_of_an_ablation_are_a_group() -> None:
    targets = AblationConfig(out="runs/ablation/", track=TrackingConfig("flags")).targets()
    assert {one.track for one in targets.values()} == {TrackingConfig("flags", "ablation")}
    named = AblationConfig(out="runs/ablation", track=TrackingConfig("flags", "mine")).targets()
    assert {one.track.group for one in named.values()} == {"mine"}
