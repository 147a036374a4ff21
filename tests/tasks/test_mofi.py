"""What MOFI's task makes of rows: which entities a picture shows, what is said of them, how both losses are joined."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from train.runs import prepared, small
from train.training_store import Store, make_store

from raylab.kb.catalog import Catalog
from raylab.models.class_table import ClassTableConfig
from raylab.models.contrastive import contrastive_loss
from raylab.recipes.train import TRAIN
from raylab.schema import LABEL
from raylab.tasks.classes import Classes
from raylab.tasks.mofi import EntityCollator, MofiTask, further_entities
from raylab.tasks.texts import TEMPLATES, Wording, WordingConfig
from raylab.train.order import generator
from raylab.train.worker import Run

MENTIONS = [{"start": 0, "end": 5}, {"start": 9, "end": 20}, {"start": 9, "end": 13}, {"start": 30, "end": 36}]
"""The third lies inside the second."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("mofi"), rows=24, parts=1)


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return prepared(small("mofi_miniworld", store, tmp_path_factory.mktemp("run")))


def row(label: str, *candidates: tuple[str, int, float], refused: str | None = None) -> dict[str, Any]:
    """Return a row with ``(entity, mention, image score)`` as its candidates; `refused`: what the annotator refused."""
    found = [{"entity_id": name, "mention": mention, "image_score": score} for name, mention, score in candidates]
    annotation = {"decision": "corrected", "candidate_id": refused} if refused else None
    return {"entity_id": label, "mentions": MENTIONS, "candidates": found, "annotation": annotation}


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (row("a", ("a", 0, 0.9), ("rival", 0, 0.8), ("b", 1, 0.7), ("c", 3, 0.2)), ["b"]),
        (row("a", ("a", 0, 0.9), ("b", 1, 0.6), ("other b", 1, 0.7)), ["other b"]),  # one a mention: the likeliest
        (row("a", ("a", 0, 0.9), ("b", 1, 0.6), ("inside b", 2, 0.7), ("c", 3, 0.5)), ["inside b", "c"]),
        (row("a", ("a", 1, 0.9), ("inside a", 2, 0.9), ("c", 3, 0.5)), ["c"]),
        (row("new", ("a", 0, 0.9), ("rival", 0, 0.8), ("b", 1, 0.7), refused="a"), ["b"]),  # never what was refused
        (row("b", ("a", 0, 0.9), ("b", 1, 0.7), ("c", 3, 0.6), refused="a"), ["c"]),
        (row("a", ("a", 0, 0.9), ("near", -1, 0.8), ("c", 3, 0.6)), ["c"]),  # near the caption: a rival of the label
        (row("a", ("a", -1, 0.9), ("near", -1, 0.8), ("c", 3, 0.6)), []),
        (row("a", ("b", 1, 0.9), ("c", 3, 0.9)), []),  # whose mention the label's is, nobody knows
        (row("a", ("a", 0, 0.9), ("b", 1, None)), []),
        (row("a"), []),
    ],
)
def test_a_picture_shows_also_what_other_mentions_surely_mean(told: dict[str, Any], shown: list[str]) -> None:
    assert further_entities(told, 0.5) == shown


def test_one_of_a_pictures_entities_is_drawn_and_all_are_told(run: Run, store: Store) -> None:
    ids = Catalog.open(store.kb).take(Classes(run.config.out, store.kb).kb_rows[:3], ("id",))["id"].to_pylist()
    two = row(ids[0], (ids[0], 0, 0.9), (ids[1], 1, 0.8), (ids[2], 3, 0.3))
    corrected = row(ids[2], (ids[0], 0, 0.9), refused=ids[0])
    task = replace(run.config.task, more_entities=0.5)  # type: ignore[type-var]
    collator = EntityCollator(task, run.context)
    rows = pa.Table.from_pylist([two, corrected] * 50, pa.schema([LABEL.field(name) for name in collator.columns]))
    arrays = collator(rows, [generator(1, i) for i in range(100)])
    drawn = Counter(arrays["class_B"][::2].tolist())
    assert set(drawn) == {0, 1} and min(drawn.values()) > 10
    assert set(arrays["class_B"][1::2].tolist()) == {2}
    assert {tuple(one) for one in arrays["others_BE"][::2].tolist()} == {(0, 1, 0, 1)}
    assert {tuple(one) for one in arrays["others_BE"][1::2].tolist()} == {(2, 2, 2, 2)}


def test_the_papers_recipe_looks_at_several_entities() -> None:
    assert TRAIN["mofi_b16"]().task.more_entities == 0.5  # type: ignore[attr-defined]
    assert MofiTask().more_entities is None


def test_the_papers_settings() -> None:
    """MOFI's (arXiv 2306.07952), as far as they are known; the baseline has the same network and optimiser."""
    mofi, clip = TRAIN["mofi_b16"](), TRAIN["clip_b16"]()
    task: Any = mofi.task
    assert task.table == ClassTableConfig(margin=0.15, temperature=1 / 32, negatives=512 * 1024)
    assert (task.supervised_weight, task.crop, task.encoder.name) == (0.9, "inception", "ViT-B-16")
    assert (mofi.optim.rate, mofi.optim.weight_decay) == (8e-4, 0.05)
    alike = ("optim", "batch", "steps", "parallel")
    assert [getattr(mofi, name) for name in alike] == [getattr(clip, name) for name in alike]
    assert (clip.task.encoder, clip.task.crop) == (task.encoder, task.crop)  # type: ignore[attr-defined]
    assert (mofi.data.rows, clip.data.rows) == ("labelled", "all")


@pytest.mark.parametrize("weight", [1.0, 0.75, 0.0])
def test_lambda_joins_the_losses(run: Run, weight: float) -> None:
    torch.manual_seed(0)
    learner = replace(run.config.task, supervised_weight=weight).learner(run.context)  # type: ignore[type-var]
    vectors = torch.nn.functional.normalize(torch.randn(2, 4, learner.module.dim), dim=-1)
    outputs = {"image_BD": vectors[0], "text_BD": vectors[1], "scale": torch.tensor(7.0)}
    class_B, others_BE = torch.tensor([0, 1, 0, 2]), torch.tensor([[0, 0], [1, 2], [0, 0], [2, 2]])
    found = learner.losses(outputs, {"class_B": class_B, "others_BE": others_BE})
    expected = 0.0
    if weight:
        expected += weight * learner.table(vectors[0], class_B, others_BE)
    if weight < 1:
        expected += (1 - weight) * contrastive_loss(vectors[0], vectors[1], outputs["scale"], class_B, others_BE)
    torch.testing.assert_close(found["loss"], torch.as_tensor(expected))


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        (WordingConfig(), (0.25, 0.25, 0.5)),
        (WordingConfig(name=1, description=0, both=3), (0.25, 0, 0.75)),
        (WordingConfig(name=0, description=0, both=0), (1, 0, 0)),
    ],
)
def test_what_is_said_is_drawn_as_the_config_says(
    store: Store, config: WordingConfig, shares: tuple[float, ...]
) -> None:
    catalog, count = Catalog.open(store.kb), 2000
    told = catalog.entities.to_pylist()
    entity = next(i for i, one in enumerate(told) if one["description"])
    title, description = told[entity]["title"], told[entity]["description"]
    said = Wording(store.kb, config)(np.full(count, entity), [generator(2, i) for i in range(count)])
    names = Counter(text for text in said if text in {form.format(title) for form in TEMPLATES})
    kinds = sum(names.values()), said.count(description), said.count(f"{title}: {description}")
    assert sum(kinds) == count
    assert np.array(kinds) / count == pytest.approx(shares, abs=0.05)
    if shares[0]:
        assert len(names) == len(TEMPLATES)
        assert max(names.values()) < 1.5 * min(names.values())


def test_an_entity_without_a_description_has_its_name(store: Store) -> None:
    wording = Wording(store.kb, WordingConfig(name=0))
    assert wording._say("Iris", None, generator(0, 0)) in {form.format("Iris") for form in TEMPLATES}
