"""How well masks are told: intersection over union, from counts of which class was said for which.

The standard definition (PASCAL VOC, Everingham et al., 2010): counts of all pixels of all pictures are joined first, a
class's IoU is right / (true + said - right), mIoU the mean over classes. Pixels whose truth is `IGNORE` do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raylab.errors import RaylabError

IGNORE = 255
"""In a true mask: the pixel does not count."""


class MaskCounts:
    """Adds up masks; scores of all that was added so far.

    Attributes:
        count_CC: int64 [classes, classes]: pixels by true class (rows) and class said (columns).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.count_CC = np.zeros((len(classes), len(classes)), np.int64)

    def add(self, said: np.ndarray, true: np.ndarray) -> None:
        """Take masks of the same shape, of any whole numbers.

        Raises:
            RaylabError: shapes that differ, or a number that is no class (`IGNORE` may be true, never said).
        """
        if said.shape != true.shape:
            raise RaylabError(f"masks of different shapes: {said.shape} was said, {true.shape} is true.")
        n = len(self.classes)
        counts = true != IGNORE
        said, true = said[counts].astype(np.int64), true[counts].astype(np.int64)
        for what, mask in (("said", said), ("true", true)):
            if mask.size and not 0 <= mask.min() <= mask.max() < n:
                raise RaylabError(f"a mask that is {what} holds {int(mask.min())}..{int(mask.max())}: {n} classes.")
        self.count_CC += np.bincount(n * true + said, minlength=n * n).reshape(n, n)

    @property
    def iou_C(self) -> np.ndarray:
        """Return float64 [classes]; nan for a class that is nowhere, neither true nor said."""
        right_C = np.diag(self.count_CC)
        union_C = self.count_CC.sum(0) + self.count_CC.sum(1) - right_C
        with np.errstate(invalid="ignore"):
            return right_C / union_C

    def scores(self) -> dict[str, float]:
        """Return ``miou``, ``pixel_accuracy`` and ``iou/CLASS``, 0..1; classes that are nowhere are left out.

        Raises:
            RaylabError: no pixel counted.
        """
        if not self.count_CC.sum():
            raise RaylabError("No pixel of the masks counts: all of them are ignored.")
        iou_C = self.iou_C
        found = {
            "miou": float(np.nanmean(iou_C)),
            "pixel_accuracy": float(np.trace(self.count_CC) / self.count_CC.sum()),
        }
        return found | {f"iou/{name}": float(iou) for name, iou in zip(self.classes, iou_C) if not np.isnan(iou)}
