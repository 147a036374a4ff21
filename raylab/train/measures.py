"""What people compare models by, of rows that are held out: shares of pictures for which a nearest vector is right.

All of it is about unit vectors, so it holds for any learner whose outputs have ``image_BD``. Every worker gives its own
rows, as many as each other's, and gets the numbers of all rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raylab.models.class_table import ClassTable
from raylab.models.distributed import gather, gather_ids, mean, rank

LEVEL = 1e-6
"""Cosines that differ by less are alike: the same text twice in a batch."""


def share(right_B: Tensor) -> float | None:
    """Return the mean over all workers' rows; rows that are nan do not count. None where no row counts."""
    counts_B = ~right_B.isnan()
    right, count = mean(torch.stack([right_B.nan_to_num().sum(), counts_B.sum().float()])).tolist()
    return right / count if count else None


def neighbours(image_BD: Tensor, class_B: Tensor) -> Tensor:
    """Return float32 [B]: whether the nearest other picture shows the same; nan where no other picture does.

    Args:
        image_BD: float32, this worker's vectors.
        class_B: int64, what each shows.
    """
    cosine_BN, class_N = image_BD @ gather(image_BD).T, gather_ids(class_B)
    own_B = _own(image_BD)
    cosine_BN.scatter_(1, own_B[:, None], -torch.inf)
    same_BN = (class_B[:, None] == class_N).scatter(1, own_B[:, None], False)
    right_B = same_BN.gather(1, cosine_BN.argmax(1, keepdim=True)).squeeze(1).float()
    return right_B.masked_fill(~same_BN.any(1), torch.nan)


def texts(image_BD: Tensor, text_BD: Tensor, class_B: Tensor | None) -> Tensor:
    """Return float32 [B]: whether no text is nearer to a picture than its own; texts of its own entity are left out.

    Args:
        image_BD: float32, this worker's vectors.
        text_BD: float32, that of each picture's own text.
        class_B: int64, what each shows, where that is known.
    """
    cosine_BN = image_BD @ gather(text_BD).T
    nearer_BN = cosine_BN > (image_BD * text_BD).sum(1, keepdim=True) + LEVEL
    if class_B is not None:
        nearer_BN &= class_B[:, None] != gather_ids(class_B)
    return (~nearer_BN.scatter(1, _own(image_BD)[:, None], False).any(1)).float()


def classes(image_BD: Tensor, class_BE: Tensor, table: ClassTable) -> Tensor:
    """Return float32 [B]: whether the nearest class of all is one of the picture's.

    Args:
        image_BD: float32, this worker's vectors.
        class_BE: int64, what each shows.
        table: the class vectors, on the same device.
    """
    return (table.nearest(image_BD)[:, None] == class_BE).any(1).float()


def _own(image_BD: Tensor) -> Tensor:
    """Return int64 [B]: where this worker's rows are among all workers'."""
    return torch.arange(len(image_BD), device=image_BD.device) + rank() * len(image_BD)
