"""Segmentation: a dense-prediction cell, ASPP, or a linear head; the class of a run knows the head's flags."""

from __future__ import annotations

from dataclasses import replace

from raylab.dense.plan import CellRun, PixelsConfig
from raylab.models.dpc import CellConfig
from raylab.models.pixel_encoder import PixelEncoderConfig
from raylab.recipes.upernet import UPERNET
from raylab.tasks.segmentation import CellTask
from raylab.train.optim import OptimConfig
from raylab.train.plan import CheckpointConfig, TrackConfig


def dpc_cityscapes() -> CellRun:
    """The published cell on MobileNet-v2 with timm's ImageNet weights (arXiv 1809.04184, section 4.1).

    Crop, batch and steps are the paper's. Its backbones saw COCO, too, and its optimiser is SGD; ours is that of all
    recipes, AdamW with a cosine.
    """
    return CellRun(
        recipe="dpc_cityscapes",
        task=CellTask(PixelEncoderConfig(pretrained=True), CellConfig(decoder=True)),
        pixels=PixelsConfig(crop=769),
        optim=OptimConfig(rate=5e-4, weight_decay=0.01),
    )


def aspp_cityscapes() -> CellRun:
    """The baseline, DeepLabv3+ (arXiv 1802.02611): `dpc_cityscapes` with ASPP."""
    return _with_cell(dpc_cityscapes(), "aspp_cityscapes", "aspp")


def dpc_voc() -> CellRun:
    """The published cell on PASCAL VOC: pictures of 513 pixels."""
    return replace(dpc_cityscapes(), recipe="dpc_voc", pixels=PixelsConfig(), steps=30_000)


def aspp_voc() -> CellRun:
    """`dpc_voc` with ASPP."""
    return _with_cell(dpc_voc(), "aspp_voc", "aspp")


def dpc_miniworld() -> CellRun:
    """The published cell on a laptop, from random weights: minutes on two cores."""
    return CellRun(
        recipe="dpc_miniworld",
        task=CellTask(
            PixelEncoderConfig(name="mobilenetv2_050", stride=8, levels=(1, 4)),
            CellConfig(filters=32, momentum=0.1, rate_multiplier=1),
        ),
        train="miniworld://?rows=2000&seed=7",
        val="miniworld://?rows=200&seed=901",
        steps=300,
        batch=16,
        accelerator="cpu",
        threads=1,
        pixels=PixelsConfig(crop=128, scales=(0.75, 1.5)),
        optim=OptimConfig(rate=3e-3, warmup_steps=20, weight_decay=0.01),
        checkpoint=CheckpointConfig(every=100),
        track=TrackConfig(every=10, evaluate_every=150),
    )


def aspp_miniworld() -> CellRun:
    """`dpc_miniworld` with ASPP."""
    return _with_cell(dpc_miniworld(), "aspp_miniworld", "aspp")


def segmentation_smoke() -> CellRun:
    """`dpc_miniworld` in seconds: five steps on a small world."""
    made = dpc_miniworld()
    return replace(
        made,
        recipe="segmentation_smoke",
        train="miniworld://?rows=16&seed=7",
        val="miniworld://?rows=8&seed=901",
        steps=4,
        batch=4,
        track=replace(made.track, every=2, evaluate_every=4, project=""),
    )


def _with_cell(run: CellRun, recipe: str, cell: str) -> CellRun:
    head = replace(run.task.head, cell=cell)
    return replace(run, recipe=recipe, task=replace(run.task, head=head))


SEGMENTATION = {
    "dpc_cityscapes": dpc_cityscapes,
    "aspp_cityscapes": aspp_cityscapes,
    "dpc_voc": dpc_voc,
    "aspp_voc": aspp_voc,
    "dpc_miniworld": dpc_miniworld,
    "aspp_miniworld": aspp_miniworld,
    "segmentation_smoke": segmentation_smoke,
    **UPERNET,
}
"""What ``jobs/segment.py --recipe`` knows."""
