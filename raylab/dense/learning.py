"""A learner of masks on its device: what the training loop is given, and what a network is scored by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from raylab.evaluate.segmentation import MaskCounts
from raylab.tasks.base import Arrays
from raylab.train.checkpoint import RunState
from raylab.train.loop import Curve, Loop
from raylab.train.optim import OptimConfig, make_optimizer
from raylab.train.plan import ParallelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from raylab.tasks.base import Learner
    from raylab.train.accelerators.base import Accelerator


class Learning:
    """See the module.

    Args:
        learner: its module returns ``logit_BCHW``; batches have ``mask_BHW``.
        classes: names of the masks' classes.
        accelerator: the device.
        optim: rates.
        precision: of the forward pass.
        seed: of the run.
        about: what a checkpoint belongs to.
    """

    def __init__(
        self,
        learner: Learner,
        classes: Sequence[str],
        *,
        accelerator: Accelerator,
        optim: OptimConfig,
        precision: str,
        seed: int,
        about: dict[str, Any],
    ) -> None:
        self.learner, self.classes, self.accelerator = learner, classes, accelerator
        self.optim, self.precision, self.seed = optim, precision, seed
        accelerator.place(learner)
        module = accelerator.wrap(learner, ParallelConfig())
        optimizers: list[torch.optim.Optimizer] = [make_optimizer(learner.groups(), optim)]
        accelerator.settle(learner, optimizers)
        self.state = RunState(learner, module, optimizers, about, accelerator)

    def run(
        self,
        batches: Iterable[Arrays],
        steps: range,
        *,
        evaluate: Callable[[], Curve],
        on_point: Callable[[int, Curve], bool],
        on_save: Callable[[int], None],
        every: tuple[int, int, int],
    ) -> None:
        """Make steps; see `train.loop.Loop`.

        Args:
            batches: one a step.
            steps: from the first that is to be made to the run's end.
            evaluate: looks at pictures that are held out.
            on_point: takes a point of the curves.
            on_save: writes a checkpoint.
            every: steps between two points, between two checkpoints, between two looks.
        """
        loop = Loop(
            learner=self.learner,
            module=self.state.module,
            optimizers=self.state.optimizers,
            accelerator=self.accelerator,
            optim=self.optim,
            steps=steps.stop,
            accumulate=1,
            precision=self.precision,
            seed=self.seed,
            log_every=every[0],
            on_point=on_point,
            save_every=every[1],
            on_save=on_save,
            evaluate_every=every[2],
            evaluate=evaluate,
        )
        loop.run(batches, steps.start)

    @torch.no_grad()
    def scores(self, batches: Iterable[Arrays], rows: int) -> dict[str, float]:
        """Return `MaskCounts.scores` of all pictures, each mask at its own size; no batch has more than `rows`."""
        counts, module = MaskCounts(self.classes), self.state.module
        module.eval()
        for arrays in batches:
            counts.add(self._said(arrays, rows), arrays["mask_BHW"])
        module.train()
        return counts.scores()

    def _said(self, arrays: Arrays, rows: int) -> np.ndarray:
        """Return uint8 [B, height, width]; where shapes cost time, a batch that is too short is filled."""
        given = len(arrays["mask_BHW"])
        if self.accelerator.static:
            arrays = {name: _filled(values, rows) for name, values in arrays.items()}
        batch = self.accelerator.to_device(arrays)
        with self.accelerator.autocast(self.precision):
            logit_BCHW = self.state.module(*self.learner.inputs(batch))["logit_BCHW"]
        said_BHW = self.accelerator.joined(likeliest(logit_BCHW, arrays["mask_BHW"].shape[-2:]))
        self.accelerator.submit()
        return said_BHW.cpu().numpy()[:given]


def _filled(values: np.ndarray, rows: int) -> np.ndarray:
    """Return so many rows: the last one again and again behind those that there are."""
    return np.concatenate([values, values[-1:].repeat(rows - len(values), 0)])


def likeliest(logit_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Return uint8 [B, height, width]: the likeliest class of each pixel of pictures of a size."""
    finer_BCHW = interpolate(logit_BCHW.float(), tuple(size), mode="bilinear", align_corners=False)
    return finer_BCHW.argmax(1).to(torch.uint8)
