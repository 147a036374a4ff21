"""Measures of held-out rows, by vectors of which one can see what is nearest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from train.runs import small, train
from train.training_store import Store

from raylab.models.class_table import ClassTable, ClassTableConfig
from raylab.train.accelerators import open_accelerator
from raylab.train.held_out import HeldOutRows
from raylab.train.measures import classes, neighbours, share, texts
from raylab.train.plan import TrackConfig


def at(*degrees: float) -> Tensor:
    """Return vectors in a plane."""
    angle_B = torch.tensor(degrees).deg2rad()
    return torch.stack([angle_B.cos(), angle_B.sin()], dim=1)


def test_neighbours_show_the_same() -> None:
    right_B = neighbours(at(0, 10, 50, 65, 200), torch.tensor([1, 1, 2, 1, 3]))
    assert right_B[:2].tolist() == [1, 1]
    assert right_B[3] == 0, "its nearest shows something else"
    assert right_B[[2, 4]].isnan().all(), "nothing else shows the same"
    assert share(right_B) == pytest.approx(2 / 3)
    assert share(torch.full((3,), torch.nan)) is None


def test_a_text_is_its_own_pictures() -> None:
    images, of_texts = at(0, 30, 60), at(25, 40, 61)
    assert texts(images, of_texts, None).tolist() == [1, 0, 1], "10 and 5 degrees from the second picture"
    assert texts(images, of_texts, torch.tensor([7, 7, 8])).tolist() == [1, 1, 1], "both texts are of one entity"
    assert texts(images, at(20, 20, 20), None).tolist() == [1, 1, 1], "the same text for all"


def test_the_nearest_class_is_one_of_the_pictures() -> None:
    table = ClassTable(4, 2, ClassTableConfig())
    with torch.no_grad():
        table.weight.copy_(at(0, 90, 180, 270) * 3)
    images = at(10, 80, 200)
    assert classes(images, torch.tensor([[0, 0], [3, 2], [1, 2]]), table).tolist() == [1, 0, 1]


def test_the_nearest_of_many_classes_is_found_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylab.models.class_table.NEAREST_ROWS", 7)
    table, image_BD = ClassTable(40, 8, ClassTableConfig()), normalize(torch.randn(16, 8), dim=1)
    expected = (image_BD @ normalize(table.weight, dim=1).T).argmax(1)
    assert table.nearest(image_BD).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("mofi_miniworld", {"neighbour_top1", "text_top1", "class_top1"}),
        ("clip_miniworld", {"text_top1"}),
    ],
)
def test_a_run_tells_them_beside_its_losses(recipe: str, names: set[str], store: Store, tmp_path: Path) -> None:
    config = small(
        recipe, store, tmp_path, steps=2, track=TrackConfig(every=1, evaluate_every=2, project="", samples=0)
    )
    points = train(replace(config, data=replace(config.data, held_out=0.4)))
    found = {name.removeprefix("held_out/"): value for name, value in points[2].items() if name.startswith("held_out/")}
    assert {name for name in found if name.endswith("top1")} == names
    assert all(0 <= found[name] <= 1 for name in names)
    assert found["loss"] > 0
    assert not any(name.startswith("held_out/") for name in points[1])


class Same(torch.nn.Module):
    """Says what it was told."""

    def forward(self, row_B: Tensor) -> dict[str, Tensor]:
        return {"row_B": row_B}


class Writer:
    """A learner that answers, and is right about rows whose number is even; it does not know of row 0."""

    table = None

    def __init__(self) -> None:
        self.module = Same()

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["row_B"],)

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": outputs["row_B"].float().mean()}

    def measures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        right_B = (batch["row_B"] % 2 == 0).float()
        return {"entity_exact": right_B.masked_fill(batch["row_B"] == 0, torch.nan)}


def test_a_learner_that_writes_measures_its_answers() -> None:
    learner = Writer()
    batches = [{"row_B": torch.arange(6).numpy()}, {"row_B": torch.arange(6).numpy()}]
    told = {"accelerator": open_accelerator("cpu"), "precision": "fp32", "seed": 0}
    held = HeldOutRows(batches, learner, learner.module, answered=4, **told)  # type: ignore[arg-type]
    assert held.point() == {"held_out/loss": 2.5, "held_out/entity_exact": pytest.approx(1 / 3)}
    none = HeldOutRows(batches, learner, learner.module, answered=0, **told)  # type: ignore[arg-type]
    assert none.point() == {"held_out/loss": 2.5}
