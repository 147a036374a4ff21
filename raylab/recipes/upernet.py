"""Segmentation as a measure of pretrained encoders: ``--task.encoder.name RUN/model`` names one."""

from __future__ import annotations

from dataclasses import dataclass, field

from raylab.dense.plan import PixelsConfig, SegmentationConfig
from raylab.models.pixel_encoder import PixelEncoderConfig
from raylab.models.upernet import UperNetConfig
from raylab.tasks.upernet import UperNetTask
from raylab.train.optim import OptimConfig
from raylab.train.plan import CheckpointConfig, TrackConfig


@dataclass(frozen=True)
class UperNetRun(SegmentationConfig):
    """Segmentation with UperNet's head."""

    task: UperNetTask = field(default_factory=UperNetTask)


def upernet_b16() -> UperNetRun:
    """At ViT-B/16 on crops of 512 pixels: 160K steps of 16, AdamW at 1e-4, as MAE's (arXiv 2111.06377, appendix A.4).

    The encoder is timm's until another one is named.
    """
    return UperNetRun(
        recipe="upernet_b16",
        task=UperNetTask(PixelEncoderConfig(name="vit_base_patch16_224", pretrained=True, image_size=512)),
        steps=160_000,
        pixels=PixelsConfig(crop=512),
        optim=OptimConfig(rate=1e-4, betas=(0.9, 0.999), epsilon=1e-8, warmup_steps=1500, clip_norm=0.0),
    )


def upernet_miniworld() -> UperNetRun:
    """On a laptop: minutes on two cores. The mini-world's encoders have seen pictures of 64 pixels."""
    return UperNetRun(
        recipe="upernet_miniworld",
        task=UperNetTask(
            PixelEncoderConfig(name="vit_tiny_patch16_224", image_size=64), UperNetConfig(width=48), layer_decay=0.75
        ),
        train="miniworld://?rows=2000&seed=7#classes=parts",
        val="miniworld://?rows=200&seed=901#classes=parts",
        steps=300,
        batch=16,
        accelerator="cpu",
        threads=1,
        pixels=PixelsConfig(side=64, crop=64, scales=(0.75, 1.5)),
        optim=OptimConfig(rate=2e-3, warmup_steps=20),
        checkpoint=CheckpointConfig(every=100),
        track=TrackConfig(every=10, evaluate_every=150),
    )


UPERNET = {"upernet_b16": upernet_b16, "upernet_miniworld": upernet_miniworld}
"""They join what ``jobs/segment.py --recipe`` knows."""
