"""The proxy task: a cell is trained on maps that are there, and looked at now and then. Knows no Ray."""

from __future__ import annotations

import math

import torch

from raylab.dense.features import FeatureMaps, FeaturePlan
from raylab.dense.learning import Learning
from raylab.dense.search_plan import SearchConfig
from raylab.models.cell_space import Cell
from raylab.models.dpc import PixelHead
from raylab.models.pixel_net import MapNet
from raylab.sources.segmentation import open_masked
from raylab.tasks.segmentation import MapLearner
from raylab.train.accelerators import open_accelerator
from raylab.train.loop import Curve

OBJECTIVE = "held_out/miou"
VAL_BATCH = 32
SETS = ("train", "val")
"""Of pictures: to learn from, and to score on."""


def feature_plans(config: SearchConfig) -> list[FeaturePlan]:
    """Return what maps are to be computed: of the pictures to learn from, and of those to score on."""
    full = config.full
    return [
        FeaturePlan(
            open_masked(getattr(full, name)),
            full.task.encoder,
            full.pixels,
            config.seed,
            f"{config.out}/features/{name}",
        )
        for name in SETS
    ]


class _Looked(Exception):
    """The loop is at a look."""


class Proxy:
    """One cell.

    Args:
        cell: it.
        config: the search.
        train: maps to learn from.
        val: those to score on.
    """

    def __init__(self, cell: Cell, config: SearchConfig, train: FeatureMaps, val: FeatureMaps) -> None:
        self._config, self._train, self._val = config, train, val
        accelerator = open_accelerator(config.full.accelerator, config.full.threads)
        torch.manual_seed(config.seed)
        head: PixelHead = config.full.task.head.of(cell, train.channels, train.stride, len(val.classes))
        self.weights = head.context.branch_weights()
        self._learning = Learning(
            MapLearner(MapNet(head)),
            val.classes,
            accelerator=accelerator,
            optim=config.proxy.optim,
            precision=config.full.precision,
            seed=config.seed,
            about={},
        )
        self.step = 0

    def look(self) -> tuple[Curve, bool]:
        """Train to the next look; return its point, with ``step`` and `OBJECTIVE`, and whether it is the last.

        Raises:
            RaylabError: loss or gradients are no longer numbers.
        """
        proxy = self._config.proxy
        every = math.ceil(proxy.steps / proxy.looks)
        points: list[tuple[int, Curve]] = []

        def keep(step: int, point: Curve) -> bool:
            points.append((step, point))
            return False

        def stop(step: int) -> None:
            raise _Looked

        steps = range(self.step, proxy.steps)
        try:
            self._learning.run(
                self._train.training_batches(proxy.batch, self._config.seed, steps),
                steps,
                evaluate=self._scores,
                on_point=keep,
                on_save=stop,
                every=(every, every, every),
            )
        except _Looked:
            self.step, point = points[-1]
        return {"step": self.step, "weights": self.weights} | point, self.step == proxy.steps

    def _scores(self) -> Curve:
        scores = self._learning.scores(self._val.whole_batches(VAL_BATCH), VAL_BATCH)
        return {f"held_out/{name}": value for name, value in scores.items()}
