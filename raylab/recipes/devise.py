"""DeViSE (Frome et al., NeurIPS 2013) and its baselines.

A run of ``devise_softmax`` makes the encoder; ``devise`` maps it into the word space, in two stages; ``devise_random``
does the same with vectors that mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from raylab.recipes.miniworld import MINIWORLD_VIT, small
from raylab.tasks.devise import MINIWORLD, DeviseTask, SoftmaxTask
from raylab.train.optim import OptimConfig
from raylab.train.plan import ParallelConfig, TrainConfig

RANDOM_500 = "random://?dim=500&seed=0"
"""As long as the paper's."""
RANDOM_64 = "random://?dim=64&seed=0"
"""As long as the mini-world's."""


@dataclass(frozen=True)
class DeviseRun(TrainConfig):
    """An encoder mapped into a word space."""

    task: DeviseTask = field(default_factory=DeviseTask)


@dataclass(frozen=True)
class SoftmaxRun(TrainConfig):
    """The softmax baseline."""

    task: SoftmaxTask = field(default_factory=SoftmaxTask)


def devise_softmax() -> SoftmaxRun:
    """The baseline at ViT-B/16, and the encoder of the others: ``--task.encoder.weights`` may name a pretrained one.

    The paper's is the ILSVRC 2012 winner, with asynchronous AdaGrad at rates that are not known; here a ViT with AdamW,
    for some 90 epochs of ImageNet-1k (our choice).
    """
    return SoftmaxRun(
        recipe="devise_softmax",
        task=SoftmaxTask(),
        steps=112_000,
        batch=1024,
        optim=OptimConfig(rate=1e-3, betas=(0.9, 0.999), epsilon=1e-8, warmup_steps=10_000),
        parallel=ParallelConfig(precision="bf16"),
    )


def devise() -> DeviseRun:
    """The first stage at ViT-B/16, the map alone: ``--task.encoder.weights SOFTMAX_RUN --task.words WORDS``.

    Ten epochs of ImageNet-1k (our choice). No weight decay: how long the map's vectors are does not matter.
    """
    return DeviseRun(
        recipe="devise",
        task=DeviseTask(),
        steps=12_500,
        batch=1024,
        optim=OptimConfig(rate=1e-3, weight_decay=0.0, betas=(0.9, 0.999), epsilon=1e-8, warmup_steps=500),
        parallel=ParallelConfig(precision="bf16"),
    )


def devise_tuned() -> DeviseRun:
    """The second stage: the encoder learns too, in small steps. Begins with the first one's run: ``--init``."""
    before = devise()
    optim = replace(before.optim, rate=1e-4)
    return replace(before, recipe="devise_tuned", task=DeviseTask(tunes=True), optim=optim)


def devise_random() -> DeviseRun:
    """The first stage with random vectors for names; its second one is ``devise_tuned`` with the same words."""
    return replace(devise(), recipe="devise_random", task=DeviseTask(words=RANDOM_500))


def devise_softmax_miniworld() -> SoftmaxRun:
    """The baseline on a laptop: minutes on two cores. The entities that the mini-world sets apart stay unseen."""
    task = SoftmaxTask(MINIWORLD_VIT, MINIWORLD, crop="shift")
    return SoftmaxRun(recipe="devise_softmax_miniworld", task=task, **small("labelled"))


def devise_miniworld() -> DeviseRun:
    """The first stage on a laptop."""
    task = DeviseTask(MINIWORLD_VIT, unseen=MINIWORLD, crop="shift")
    run = DeviseRun(recipe="devise_miniworld", task=task, **small("labelled"))
    return replace(run, optim=replace(run.optim, weight_decay=0.0))


def devise_tuned_miniworld() -> DeviseRun:
    """The second stage on a laptop; it is short, so its steps are less small."""
    before = devise_miniworld()
    task = replace(before.task, tunes=True, encoder_rate=0.5)
    return replace(before, recipe="devise_tuned_miniworld", task=task)


def devise_random_miniworld() -> DeviseRun:
    """The first stage with random vectors on a laptop."""
    before = devise_miniworld()
    return replace(before, recipe="devise_random_miniworld", task=replace(before.task, words=RANDOM_64))


DEVISE = {
    "devise_softmax": devise_softmax,
    "devise": devise,
    "devise_tuned": devise_tuned,
    "devise_random": devise_random,
    "devise_softmax_miniworld": devise_softmax_miniworld,
    "devise_miniworld": devise_miniworld,
    "devise_tuned_miniworld": devise_tuned_miniworld,
    "devise_random_miniworld": devise_random_miniworld,
}
"""They join what ``jobs/train.py --recipe`` knows."""
