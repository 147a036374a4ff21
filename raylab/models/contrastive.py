"""CLIP's symmetric loss over the rows of all workers, in which other pictures of one's own entity are no negatives."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raylab.models.distributed import gather, gather_ids, rank


def contrastive_loss(
    image_BD: Tensor,
    text_BD: Tensor,
    scale: Tensor,
    class_B: Tensor | None = None,
    others_BE: Tensor | None = None,
) -> Tensor:
    """Return the mean of this worker's rows: pictures against all texts, texts against all pictures.

    The gradient reaches all workers' rows: averaged over workers (as DDP does), it is that of one worker with all rows.

    Args:
        image_BD: float32 [B, D], rows of length 1.
        text_BD: likewise.
        scale: the inverse temperature.
        class_B: int64 [B], what each row's text names. Where another row's picture shows it, the two are left out: they
            would be false negatives (our choice).
        others_BE: int64 [B, E], all that each picture shows, over and over; null: what its text names.
    """
    all_image_ND, all_text_ND = gather(image_BD), gather(text_BD)
    own_B = torch.arange(len(image_BD), device=image_BD.device) + rank() * len(image_BD)
    logit_image_BN = scale * image_BD @ all_text_ND.T
    logit_text_BN = scale * text_BD @ all_image_ND.T
    if class_B is not None:
        shown_BE = class_B[:, None] if others_BE is None else torch.cat([class_B[:, None], others_BE], 1)
        class_N, shown_NE = gather_ids(class_B), gather_ids(shown_BE)
        other_BN = own_B[:, None] != torch.arange(len(class_N), device=own_B.device)
        logit_image_BN = logit_image_BN.masked_fill(_among(class_N[None], shown_BE[:, None]) & other_BN, -torch.inf)
        logit_text_BN = logit_text_BN.masked_fill(_among(class_B[:, None], shown_NE[None]) & other_BN, -torch.inf)
    return (cross_entropy(logit_image_BN, own_B) + cross_entropy(logit_text_BN, own_B)) / 2


def _among(number: Tensor, shown: Tensor) -> Tensor:
    """Return bool [B, N]: the number is among the last axis of `shown`; one comparison at a time, for memory."""
    return functools.reduce(torch.logical_or, [number == one for one in shown.unbind(-1)])
