"""What W&B is told of an evaluation, read back from its offline files."""

import io
from pathlib import Path

import pytest
from PIL import Image
from wandb_files import read_wandb, wandb_folders

from raylab.evaluate.plan import EvaluateConfig
from raylab.evaluate.tracked import track
from raylab.storage import Folder
from raylab.tracking import TrackingConfig

SCORES = [
    {"benchmark": "retrieval", "protocol": "loo", "part": "all", "metric": "map", "value": 0.75, "count": 40},
    {"benchmark": "zero_shot", "protocol": "names", "part": "all", "metric": "top1", "value": 0.5, "count": 40},
]
SUMMARY = {"scores": SCORES, "refused": {"bad": 2}, "seconds": 1.5, "config": {"model": "m"}}


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("project", ["flags", ""])
def test_scores_plots_and_files(project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = Folder(str(tmp_path / "scores"))
    folder.write_json("scores.json", SUMMARY)
    config = EvaluateConfig(track=TrackingConfig(project))
    track(config, folder, SUMMARY, {"plots/retrieval-0.png": ("Precision and recall", png())})
    found = wandb_folders(tmp_path / "scores")
    if not project:
        assert not found
        return
    run = read_wandb(*found)
    assert (run.job_type, run.name, run.config) == ("evaluate", "scores", {"model": "m"})
    assert run.table("scores") == SCORES
    assert run.summary["retrieval/loo/all/map"] == 0.75
    assert run.summary["refused"] == 2
    assert run.captions("plots/retrieval-0") == ["Precision and recall"]
    assert "scores.json" in run.files
