"""The sharded, sampled softmax of MOFI against its formula, with one worker and with two."""

from __future__ import annotations

import math

import pytest
import torch
from distributed_workers import run_workers
from torch.nn.functional import cross_entropy, normalize

from raylab.errors import RaylabError
from raylab.models.class_table import ClassTable, ClassTableConfig, _places

CLASSES, DIM, BATCH = 40, 8, 6
FULL = ClassTableConfig(negatives=CLASSES)


def vectors(rows: int = BATCH, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def formula(table: ClassTable, image_BD: torch.Tensor, class_B: torch.Tensor, left_out: torch.Tensor) -> torch.Tensor:
    """MOFI's loss over all classes; bool [B, classes] says which ones are left out of a row's softmax."""
    cosine_BC = image_BD @ normalize(table.weight, dim=-1).T
    true_BC = torch.nn.functional.one_hot(class_B, CLASSES).bool()
    logit_BC = (cosine_BC - FULL.margin * true_BC) / FULL.temperature
    return cross_entropy(logit_BC.masked_fill(left_out & ~true_BC, -math.inf), class_B)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 33])
def test_places_are_those_of_searchsorted(size: int) -> None:
    rising_S = torch.randint(20, (size,), generator=torch.Generator().manual_seed(size)).sort().values
    number_NE = torch.arange(-2, 22).view(6, 4)
    assert _places(rising_S, number_NE).tolist() == torch.searchsorted(rising_S, number_NE).tolist()


def test_full_softmax_is_cosface() -> None:
    table = ClassTable(CLASSES, DIM, FULL)
    class_B = torch.tensor([3, 0, 39, 3, 7, 12])
    expected = formula(table, vectors(), class_B, torch.zeros(BATCH, CLASSES, dtype=torch.bool))
    torch.testing.assert_close(table(vectors(), class_B), expected)


def test_other_entities_of_a_picture_are_no_negatives() -> None:
    table = ClassTable(CLASSES, DIM, FULL)
    class_B = torch.tensor([3, 0, 39, 3, 7, 12])
    others_BE = torch.stack([class_B, (class_B + 1) % CLASSES, class_B], dim=1)
    left_out = torch.zeros(BATCH, CLASSES, dtype=torch.bool)
    left_out[torch.arange(BATCH), others_BE[:, 1]] = True
    torch.testing.assert_close(table(vectors(), class_B, others_BE), formula(table, vectors(), class_B, left_out))


def test_sampled_softmax_holds_the_batch_and_draws_the_rest() -> None:
    table = ClassTable(CLASSES, DIM, ClassTableConfig(negatives=10))
    class_B = torch.tensor([3, 0, 39, 3, 7, 12])
    torch.manual_seed(1)
    loss = table(vectors(), class_B)
    loss.backward()
    touched = table.weight.grad.coalesce().indices()[0].tolist()
    assert set(class_B.tolist()) < set(touched)
    assert len(set(touched)) <= 10 + BATCH
    torch.manual_seed(1)
    chosen_S, first_S = table._choose(class_B)
    some = torch.ones(BATCH, CLASSES, dtype=torch.bool)
    some[:, chosen_S[first_S]] = False
    torch.testing.assert_close(loss, formula(table, vectors(), class_B, some))


def test_gradient_is_sparse_and_right() -> None:
    table = ClassTable(CLASSES, DIM, ClassTableConfig(negatives=CLASSES))
    class_B = torch.tensor([3, 0, 39, 3, 7, 12])
    table(vectors(), class_B).backward()
    found = table.weight.grad.to_dense().clone()
    table.weight.grad = None
    formula(table, vectors(), class_B, torch.zeros(BATCH, CLASSES, dtype=torch.bool)).backward()
    torch.testing.assert_close(found, table.weight.grad)


@pytest.mark.parametrize(("classes", "workers", "most"), [(2, 3, 2), (5, 4, 3), (9, 6, 5)])
def test_a_worker_without_classes_is_refused(
    classes: int, workers: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylab.models.class_table.world", lambda: workers)
    with pytest.raises(RaylabError, match=rf"^{classes} classes cannot be shared by {workers} .* Take {most} workers"):
        ClassTable(classes, DIM, FULL)
    monkeypatch.setattr("raylab.models.class_table.world", lambda: most)
    for rank in range(most):
        monkeypatch.setattr("raylab.models.class_table.rank", lambda rank=rank: rank)
        assert len(ClassTable(classes, DIM, FULL).weight) > 0


def _shard(rank: int, world: int) -> dict[str, torch.Tensor]:
    """One worker's part of the test below: its gradients, as DDP would leave them."""
    table = ClassTable(CLASSES, DIM, FULL)
    rows = BATCH // world
    mine = slice(rank * rows, (rank + 1) * rows)
    image_BD = vectors()[mine].requires_grad_()
    class_B = torch.tensor([3, 0, 39, 3, 7, 12])
    loss = table(image_BD, class_B[mine], (class_B[mine, None] + 1) % CLASSES)
    loss.backward()
    table.rescale()
    assert image_BD.grad is not None
    return {
        "nearest": table.nearest(image_BD),
        "loss": loss.detach(),
        "image": image_BD.grad / world,
        "table": table.weight.grad.to_dense(),
    }


def test_two_workers_are_one() -> None:
    alone = _shard(0, 1)
    both = run_workers(_shard, 2)
    for worker in both:
        torch.testing.assert_close(worker["loss"], alone["loss"])
    for name in ("image", "table", "nearest"):
        torch.testing.assert_close(torch.cat([worker[name] for worker in both]), alone[name])
