"""How a run does on rows that it does not learn from: read once, looked at in a moment, while the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from raylab.models.distributed import mean
from raylab.tasks.base import Arrays, Learner

if TYPE_CHECKING:
    from raylab.train.accelerators.base import Accelerator
    from raylab.train.loop import Curve


class HeldOutRows:
    """This worker's share of the rows that are held out.

    Args:
        batches: of the same size as in training, cropped as in evaluation.
        learner: the network and its losses.
        module: the learner's module as it was wrapped.
        accelerator: the device.
        precision: of the forward pass.
        seed: of the run.
    """

    def __init__(
        self,
        batches: Sequence[Arrays],
        learner: Learner,
        module: nn.Module,
        *,
        accelerator: Accelerator,
        precision: str,
        seed: int,
    ) -> None:
        self.batches, self.learner, self.module = batches, learner, module
        self.accelerator, self.precision, self.seed = accelerator, precision, seed

    def point(self) -> Curve:
        """Return the mean losses over rows and workers; all workers call it. Empty where no row is held out."""
        if not self.batches:
            return {}
        self.accelerator.seed(self.seed)
        self.module.eval()
        with torch.no_grad():
            found = [self._losses(arrays) for arrays in self.batches]
        self.module.train()
        names = list(found[0])
        values = torch.stack([torch.stack([one[name].float() for name in names]) for one in found]).mean(0)
        return {f"held_out/{name}": value for name, value in zip(names, mean(values).tolist())}

    def _losses(self, arrays: Arrays) -> dict[str, torch.Tensor]:
        batch = self.accelerator.to_device(arrays)
        with self.accelerator.autocast(self.precision):
            outputs = self.module(*self.learner.inputs(batch))
        return self.learner.losses(outputs, batch)

    def samples(self, count: int) -> list[tuple[np.ndarray, str]]:
        """Return pictures (uint8 [H, W, 3]) and what the model says of them; one worker calls it, on a whole model."""
        if not self.batches:
            return []
        arrays = {name: values[:count] for name, values in self.batches[0].items()}
        self.module.eval()
        with torch.no_grad():
            said = self.learner.describe(self.accelerator.to_device(arrays))
        self.module.train()
        return list(zip(arrays["image_BHWC"], said))
