"""How a run does on rows that it does not learn from: read once, looked at in a moment, while the run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from raylab.models.distributed import mean
from raylab.tasks.base import Arrays, Learner, Measured, Pictured
from raylab.train.accelerators.wrapping import whole
from raylab.train.measures import classes, neighbours, share, texts

if TYPE_CHECKING:
    from raylab.train.accelerators.base import Accelerator
    from raylab.train.loop import Curve


VECTORS = ("image_BD", "text_BD", "class_B", "others_BE")
"""What is kept of each batch, of its arrays and its outputs."""


class HeldOutRows:
    """This worker's share of the rows that are held out.

    Args:
        batches: of the same size as in training, cropped as in evaluation.
        learner: the network and its losses.
        module: the learner's module as it was wrapped.
        accelerator: the device.
        precision: of the forward pass.
        seed: of the run.
        answered: rows whose answers are looked at, where the learner gives any.
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
        answered: int = 0,
    ) -> None:
        self.batches, self.learner, self.module = batches, learner, module
        self.accelerator, self.precision, self.seed, self.answered = accelerator, precision, seed, answered

    def point(self) -> Curve:
        """Return the mean losses over rows and workers, and measures; all workers call it. Empty without such rows."""
        if not self.batches:
            return {}
        self.accelerator.seed(self.seed)
        self._seen: dict[str, list[Tensor]] = {}
        with self._looking():
            found = [self._losses(arrays) for arrays in self.batches]
            values = mean(self.accelerator.stack(found).mean(0)).tolist()
            shares = {name: share(right) for name, right in (self._nearest() | self._answers()).items()}
        point = dict(zip(self._names, values)) | {name: value for name, value in shares.items() if value is not None}
        return {f"held_out/{name}": value for name, value in point.items()}

    def _losses(self, arrays: Arrays) -> Tensor:
        """Return a batch's losses in the order of `_names`; keep its vectors."""
        batch = self.accelerator.to_device(arrays)
        with self.accelerator.autocast(self.precision):
            outputs = self.module(*self.learner.inputs(batch))
        losses = self.learner.losses(outputs, batch)
        self._names = list(losses)
        found = torch.stack([value.float() for value in losses.values()])
        if "image_BD" in outputs and self.accelerator.describes:
            for name, value in {**batch, **outputs}.items():
                if name in VECTORS:
                    self._seen.setdefault(name, []).append(self.accelerator.joined(value))
        self.accelerator.submit()
        return found

    def _nearest(self) -> dict[str, Tensor]:
        """Return whether vectors that are nearest are right, for each row."""
        seen = {name: self.accelerator.stack(values).flatten(0, 1) for name, values in self._seen.items()}
        if "image_BD" not in seen:
            return {}
        image_BD, class_B, found = seen["image_BD"], seen.get("class_B"), dict[str, Tensor]()
        if "text_BD" in seen:
            found["text_top1"] = texts(image_BD, seen["text_BD"], class_B)
        if class_B is not None:
            found["neighbour_top1"] = neighbours(image_BD, class_B)
            table = self.learner.table
            if table is not None and table.weight.device == image_BD.device:  # not where vectors came to the host
                found["class_top1"] = classes(image_BD, seen.get("others_BE", class_B[:, None]), table)
        return found

    def _answers(self) -> dict[str, Tensor]:
        """Return whether the learner's answers are right, for each row of some."""
        if not (isinstance(self.learner, Measured) and self.answered and self.accelerator.describes):
            return {}
        arrays = {name: values[: self.answered] for name, values in self.batches[0].items()}
        with whole(self.module):
            return self.learner.measures(self.accelerator.to_device(arrays, split=False))

    def samples(self, count: int) -> list[tuple[np.ndarray, str]]:
        """Return pictures (uint8 [H, W, 3]), or what a `Pictured` learner shows for them, and what the model says.

        Of a sharded network or class table all workers call it, and each gets its own rows.
        """
        if not self.batches or not self.accelerator.describes:
            return []
        arrays = {name: values[:count] for name, values in self.batches[0].items()}
        with self._looking(), whole(self.module):
            batch = self.accelerator.to_device(arrays, split=False)
            said = self.learner.describe(batch)
            shown = arrays["image_BHWC"]
            if isinstance(self.learner, Pictured):
                shown = self.learner.pictures(batch).cpu().numpy()
        return list(zip(shown, said))

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Be in evaluation; not compiled, as compiling it a second time takes longer than the few looks of a run."""
        self.module.eval()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
        self.module.train()
