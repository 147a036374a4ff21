"""How a run does on rows that it does not learn from: read once, looked at in a moment, while the run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from raylab.models.distributed import mean
from raylab.tasks.base import Arrays, Learner
from raylab.train.accelerators.wrapping import whole

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
        with self._looking():
            found = [self._losses(arrays) for arrays in self.batches]
        values = mean(self.accelerator.stack(found).mean(0)).tolist()
        return {f"held_out/{name}": value for name, value in zip(self._names, values)}

    def _losses(self, arrays: Arrays) -> torch.Tensor:
        """Return a batch's losses in the order of `_names`."""
        batch = self.accelerator.to_device(arrays)
        with self.accelerator.autocast(self.precision):
            outputs = self.module(*self.learner.inputs(batch))
        losses = self.learner.losses(outputs, batch)
        self._names = list(losses)
        found = torch.stack([value.float() for value in losses.values()])
        self.accelerator.submit()
        return found

    def samples(self, count: int) -> list[tuple[np.ndarray, str]]:
        """Return pictures (uint8 [H, W, 3]) and what the model says of them.

        Of a sharded network all workers call it, and each gets its own rows.
        """
        if not self.batches or not self.accelerator.describes:
            return []
        arrays = {name: values[:count] for name, values in self.batches[0].items()}
        with self._looking(), whole(self.module):
            said = self.learner.describe(self.accelerator.to_device(arrays, split=False))
        return list(zip(arrays["image_BHWC"], said))

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Be in evaluation; not compiled, as compiling it a second time takes longer than the few looks of a run."""
        self.module.eval()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
        self.module.train()
