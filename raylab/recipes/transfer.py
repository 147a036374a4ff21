"""What a pretrained encoder is good for: fine-tuning and the linear probe, as MAE does both (arXiv 2111.06377, A.1)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from raylab.models.mixing import MixConfig
from raylab.recipes.miniworld import MINIWORLD_VIT, small
from raylab.tasks.finetune import FinetuneTask, LinearProbeTask
from raylab.train.optim import OptimConfig
from raylab.train.plan import ParallelConfig, TrainConfig


@dataclass(frozen=True)
class FinetuneRun(TrainConfig):
    """A pretrained encoder, tuned to the entities of a label store."""

    task: FinetuneTask = field(default_factory=FinetuneTask)


@dataclass(frozen=True)
class LinearProbeRun(TrainConfig):
    """A linear map on a pretrained encoder that rests."""

    task: LinearProbeTask = field(default_factory=LinearProbeTask)


def finetune_b16() -> FinetuneRun:
    """Fine-tuning at ViT-B/16: ``--task.encoder.weights RUN`` names the pretraining run.

    Steps are 100 epochs of ImageNet-1k's 1.28 million pictures, the first five warm up. RandAugment, which MAE has
    besides, is left out (our choice).
    """
    return FinetuneRun(
        recipe="finetune_b16",
        task=FinetuneTask(),
        steps=125_000,
        batch=1024,
        optim=OptimConfig(rate=2e-3, betas=(0.9, 0.999), epsilon=1e-8, warmup_steps=6_250, clip_norm=0.0),
        parallel=ParallelConfig(precision="bf16"),
    )


def finetune_l16() -> FinetuneRun:
    """The same at ViT-L/16: 50 epochs, and the rate of a block is nearer to that of the one behind it."""
    before = finetune_b16()
    task = replace(
        before.task,
        encoder=replace(before.task.encoder, name="vit_large_patch16_224"),
        layer_decay=0.75,
        drop_path=0.2,
    )
    return replace(
        before,
        recipe="finetune_l16",
        task=task,
        steps=62_500,
        optim=replace(before.optim, rate=4e-3),
    )


def linear_probe_b16() -> LinearProbeRun:
    """The linear probe at ViT-B/16: ``--task.encoder.weights RUN`` names the pretraining run.

    LARS with momentum and no weight decay at 0.1 a batch of 256; steps are 90 epochs of ImageNet-1k, ten warm up.
    """
    return LinearProbeRun(
        recipe="linear_probe_b16",
        task=LinearProbeTask(),
        steps=7_000,
        batch=16_384,
        optim=OptimConfig(kind="lars", rate=6.4, weight_decay=0.0, warmup_steps=780, clip_norm=0.0),
        parallel=ParallelConfig(precision="bf16"),
    )


def finetune_miniworld() -> FinetuneRun:
    """Fine-tuning on a laptop; what a flag is lies in its colours and their order, so pictures are mixed less."""
    task = FinetuneTask(MINIWORLD_VIT, MixConfig(mixup=0.0, cutmix=0.0, erased=0.0), layer_decay=0.75, crop="shift")
    return FinetuneRun(recipe="finetune_miniworld", task=task, **small("labelled"))


def linear_probe_miniworld() -> LinearProbeRun:
    """The linear probe on a laptop: few steps, so at a higher rate."""
    task = LinearProbeTask(MINIWORLD_VIT, crop="shift")
    fields = small("labelled")
    optim = replace(fields["optim"], kind="lars", rate=30.0, weight_decay=0.0, clip_norm=0.0)
    return LinearProbeRun(recipe="linear_probe_miniworld", task=task, **(fields | {"optim": optim}))


TRANSFER = {
    "finetune_b16": finetune_b16,
    "finetune_l16": finetune_l16,
    "linear_probe_b16": linear_probe_b16,
    "finetune_miniworld": finetune_miniworld,
    "linear_probe_miniworld": linear_probe_miniworld,
}
"""They join what ``jobs/train.py --recipe`` knows."""
