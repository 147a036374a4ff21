"""CLIP's symmetric loss over the rows of all workers, in which other pictures of one's own entity are no negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raylab.models.distributed import gather, gather_ids, rank


def contrastive_loss(image_BD: Tensor, text_BD: Tensor, scale: Tensor, class_B: Tensor | None = None) -> Tensor:
    """Return the mean of this worker's rows: pictures against all texts, texts against all pictures.

    The gradient reaches all workers' rows: averaged over workers (as DDP does), it is that of one worker with all rows.

    Args:
        image_BD: float32 [B, D], rows of length 1.
        text_BD: likewise.
        scale: the inverse temperature.
        class_B: int64 [B], what each row shows. Pairs of two rows that show the same are left out: they would be false
            negatives (our choice).
    """
    all_image_ND, all_text_ND = gather(image_BD), gather(text_BD)
    own_B = torch.arange(len(image_BD), device=image_BD.device) + rank() * len(image_BD)
    logit_image_BN = scale * image_BD @ all_text_ND.T
    logit_text_BN = scale * text_BD @ all_image_ND.T
    if class_B is not None:
        same_BN = class_B[:, None] == gather_ids(class_B)
        same_BN[torch.arange(len(own_B), device=own_B.device), own_B] = False
        logit_image_BN = logit_image_BN.masked_fill(same_BN, -torch.inf)
        logit_text_BN = logit_text_BN.masked_fill(same_BN, -torch.inf)
    return (cross_entropy(logit_image_BN, own_B) + cross_entropy(logit_text_BN, own_B)) / 2
