"""The rank loss against the paper's loop in float64, and what is told of the network."""

from __future__ import annotations

import numpy as np
import torch

from raylab.models.devise import Devise, rank_losses
from raylab.recipes.miniworld import MINIWORLD_VIT


def first_violation(cosine_C: np.ndarray, label: int, order: np.ndarray, margin: float) -> float:
    """The paper's loop."""
    for other in order:
        loss = margin - cosine_C[label] + cosine_C[other]
        if other != label and loss > 0:
            return float(loss)
    return 0.0


def test_the_loss_is_that_of_a_random_order_cut_at_the_first_violation() -> None:
    rng = np.random.default_rng(0)
    cosine_C, label, margin = rng.uniform(-1, 1, 12), 4, 0.1
    cosine_C[label] = np.sort(cosine_C)[-5]  # some are above it
    wanted = [first_violation(cosine_C, label, rng.permutation(12), margin) for _ in range(20_000)]
    chance = torch.linspace(0, 1, 20_001)[:-1]
    cosine_BC = torch.tensor(cosine_C, dtype=torch.float32).expand(20_000, -1)
    found = rank_losses(cosine_BC, torch.full((20_000,), label), chance, margin).double().numpy()
    terms, counts = np.unique(found.round(5), return_counts=True)
    wanted_terms, wanted_counts = np.unique(np.round(wanted, 5), return_counts=True)
    np.testing.assert_allclose(terms, wanted_terms, atol=2e-5)
    np.testing.assert_allclose(counts / 20_000, wanted_counts / 20_000, atol=0.015)


def test_a_true_name_that_is_far_ahead_costs_nothing_and_moves_nothing() -> None:
    cosine_BC = torch.tensor([[0.9, 0.5, 0.79], [0.9, 0.85, 0.1]], requires_grad=True)
    loss_B = rank_losses(cosine_BC, torch.tensor([0, 0]), torch.tensor([0.0, 0.999999]), 0.1)
    torch.testing.assert_close(loss_B, torch.tensor([0.0, 0.05]))
    loss_B.sum().backward()
    torch.testing.assert_close(cosine_BC.grad, torch.tensor([[0.0, 0, 0], [-1, 1, 0]]))


def test_only_the_map_learns_until_the_encoder_is_tuned() -> None:
    target_CE = torch.nn.functional.normalize(torch.randn(5, 16), dim=1)
    image_BHWC = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    for tunes in (False, True):
        module = Devise(MINIWORLD_VIT, target_CE, tunes=tunes)
        outputs = module(image_BHWC)
        torch.testing.assert_close(outputs["logit_BC"], outputs["image_BD"] @ target_CE.T)
        torch.testing.assert_close(outputs["image_BD"].norm(dim=1), torch.ones(2))
        outputs["logit_BC"].sum().backward()
        assert module.map.weight.grad is not None
        assert any(one.grad is not None for one in module.vit.parameters()) == tunes
    assert list(Devise(MINIWORLD_VIT, 7, tunes=True)(image_BHWC)) == ["logit_BC"]
