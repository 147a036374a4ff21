"""Segmentation: the CPU trainer's losses and masks, and nothing compiled once all was done once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylab.dense.fit import fit
from raylab.dense.plan import CellRun, SegmentationConfig
from raylab.errors import RaylabError
from raylab.models.dpc import CellConfig
from raylab.models.pixel_encoder import PixelEncoderConfig
from raylab.models.upernet import UperNetConfig
from raylab.recipes.segmentation import segmentation_smoke
from raylab.recipes.upernet import UperNetRun
from raylab.tasks.segmentation import CellTask
from raylab.tasks.upernet import UperNetTask
from raylab.train.plan import CheckpointConfig, TrackConfig

pytest.importorskip("torch_xla", reason="torch-xla has an environment of its own: make test-xla")

STEPS, WARM = 4, 2
BATCH_STATISTICS = 1e-3
"""Relative: they make rounding differences grow."""
BRANCHES = [
    {"input": -1, "op": "conv", "kernel": 1},
    {"input": -1, "op": "pyramid_pooling", "grid_size": [2, 2], "kernel": 1},
    {"input": 0, "op": "conv", "kernel": 3, "rate": [1, 3]},
]


def cell(folder: Path) -> CellTask:
    """A cell of each operator, and the decoder."""
    path = folder / "cell.json"
    path.write_text(json.dumps(BRANCHES))
    head = CellConfig(cell=str(path), filters=8, decoder=True, dropout=0.0, momentum=0.1)
    return CellTask(PixelEncoderConfig("test_resnet", levels=(1, 4)), head)


def upernet(folder: Path) -> UperNetTask:
    """A transformer whose coarsest map is too small for the pools to divide it."""
    encoder = PixelEncoderConfig("test_vit", image_size=64, levels=(0, 1, 2, 3))
    return UperNetTask(encoder, UperNetConfig(width=8, pools=(1, 2, 3)))


def config_of(task: Any, out: Path, accelerator: str, **changes: Any) -> SegmentationConfig:
    made = segmentation_smoke()
    shared = {name: getattr(made, name) for name in ("recipe", "train", "batch", "threads", "optim")}
    kind = CellRun if isinstance(task, CellTask) else UperNetRun
    run = kind(
        **shared,
        task=task,
        val="miniworld://?rows=6&seed=901",  # the last batch is not full
        out=str(out),
        steps=STEPS,
        accelerator=accelerator,
        pixels=replace(made.pixels, crop=64, side=64),
        checkpoint=CheckpointConfig(every=WARM),
        track=TrackConfig(every=1, evaluate_every=WARM, project=""),
    )
    return replace(run, **changes)


def curves(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", [cell, upernet])
def test_a_mesh_of_four(task: Any, tmp_path: Path) -> None:
    from torch_xla.debug import metrics

    from raylab.train.accelerators.xla import compiled

    right = fit(config_of(task(tmp_path), tmp_path / "cpu", "cpu"))
    found = fit(config_of(task(tmp_path), tmp_path / "xla", "xla"))
    on_cpu, on_xla = curves(tmp_path / "cpu"), curves(tmp_path / "xla")
    for name in ("loss", "gradient_norm"):
        expected = [point[name] for point in on_cpu]
        assert [point[name] for point in on_xla] == pytest.approx(expected, rel=BATCH_STATISTICS)
    assert found["scores"] == pytest.approx(right["scores"], abs=0.01)  # a pixel may go the other way
    assert compiled() == on_xla[WARM]["programs"]
    assert [name for name in metrics.executed_fallback_ops() if "_local_scalar_dense" not in name] == []
    assert (tmp_path / "xla/model/model.safetensors").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 6}, "--batch 6 cannot be shared by 4 devices"),
        ({"val": "voc"}, r"has pictures of 2 sizes, and --accelerator xla would .*--accelerator cpu or cuda"),
    ],
)
def test_what_devices_cannot_share_is_refused(tmp_path: Path, changes: dict, said: str) -> None:
    if "val" in changes:
        changes = dict.fromkeys(("train", "val"), write_voc(tmp_path / "voc"))
    with pytest.raises(RaylabError, match=said):
        fit(config_of(upernet(tmp_path), tmp_path / "run", "xla", **changes))


def write_voc(folder: Path) -> str:
    """Two pictures of VOC's layout, of two sizes."""
    from PIL import Image

    for number, size in enumerate([(50, 37), (37, 50)]):
        for kind, mode, suffix in (("JPEGImages", "RGB", "jpg"), ("SegmentationClass", "P", "png")):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.new(mode, size).save(folder / kind / f"{number}.{suffix}")
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/train.txt").write_text("0\n1\n")
    return f"{folder}#split=train"
