"""CLIP's loss against open_clip's own, with one worker and with two, and without false negatives."""

from __future__ import annotations

import open_clip
import torch
from distributed_workers import run_workers
from torch.nn.functional import cross_entropy, normalize

from raylab.models.contrastive import contrastive_loss

ROWS, DIM = 8, 5


def vectors(seed: int) -> torch.Tensor:
    return normalize(torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_it_is_the_loss_of_open_clip() -> None:
    scale = torch.tensor(7.0)
    expected = open_clip.ClipLoss()(vectors(0), vectors(1), scale)
    torch.testing.assert_close(contrastive_loss(vectors(0), vectors(1), scale), expected)


def test_rows_of_one_entity_are_no_negatives_of_each_other() -> None:
    scale, class_B = torch.tensor(7.0), torch.tensor([1, 2, 1, 3, 4, 5, 6, 2])
    logit = scale * vectors(0) @ vectors(1).T
    same = (class_B[:, None] == class_B) & ~torch.eye(ROWS, dtype=torch.bool)
    logit = logit.masked_fill(same, float("-inf"))
    expected = (cross_entropy(logit, torch.arange(ROWS)) + cross_entropy(logit.T, torch.arange(ROWS))) / 2
    torch.testing.assert_close(contrastive_loss(vectors(0), vectors(1), scale, class_B), expected)


def test_a_text_is_no_negative_of_a_picture_that_shows_it_too() -> None:
    """The second picture shows 1 and 2, and its text names 2: so the first text, which names 1, is right of it too."""
    scale, class_B = torch.tensor(7.0), torch.tensor([1, 2, 3])
    others_BE = torch.tensor([[1, 1], [2, 1], [3, 3]])
    image, text = vectors(0)[:3], vectors(1)[:3]
    logit = scale * image @ text.T
    logit[1, 0] = -torch.inf
    expected = (cross_entropy(logit, torch.arange(3)) + cross_entropy(logit.T, torch.arange(3))) / 2
    torch.testing.assert_close(contrastive_loss(image, text, scale, class_B, others_BE), expected)


def _shard(rank: int, world: int) -> dict[str, torch.Tensor]:
    rows = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    image, text = vectors(0)[rows].requires_grad_(), vectors(1)[rows].requires_grad_()
    class_B = torch.tensor([1, 2, 1, 3, 4, 5, 6, 2])[rows]
    others_BE = torch.tensor([[1, 1], [2, 4], [1, 6], [3, 1], [4, 4], [5, 5], [6, 6], [2, 2]])[rows]
    loss = contrastive_loss(image, text, torch.tensor(7.0), class_B, others_BE)
    loss.backward()
    assert image.grad is not None
    assert text.grad is not None
    return {"loss": loss.detach(), "image": image.grad / world, "text": text.grad / world}


def test_two_workers_are_one() -> None:
    alone = _shard(0, 1)
    both = run_workers(_shard, 2)
    torch.testing.assert_close(torch.stack([one["loss"] for one in both]).mean(), alone["loss"])
    for name in ("image", "text"):
        torch.testing.assert_close(torch.cat([one[name] for one in both]), alone[name])
