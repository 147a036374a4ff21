"""MOFI (arXiv 2306.07952): pictures to entities by a large softmax, to entity texts by contrast, or both at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.models.class_table import ClassTable, ClassTableConfig
from raylab.models.contrastive import contrastive_loss
from raylab.models.dual_encoder import DualEncoderConfig
from raylab.tasks.base import Arrays, TaskContext
from raylab.tasks.classes import Classes
from raylab.tasks.dual import DualCollator, DualLearner, own_places
from raylab.tasks.texts import Wording, WordingConfig

if TYPE_CHECKING:
    from torch import Tensor

MOST_ENTITIES = 4
"""Entities of one picture that are looked at."""


@dataclass(frozen=True)
class MofiTask:
    """A dual encoder on entities."""

    encoder: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    crop: str = "inception"
    """See `tasks.base.ImageInput`."""
    supervised_weight: float = 0.9
    """Lambda: the softmax's share of the loss, the rest is the contrastive loss's. 1: supervised alone;
    0: contrastive alone."""
    table: ClassTableConfig = field(default_factory=ClassTableConfig)
    wording: WordingConfig = field(default_factory=WordingConfig)
    more_entities: float | None = None
    """A picture shows, beside its label, the likeliest candidate of each other mention, if its image score is at least
    this. One of them is drawn each time. Null: the label alone."""

    def __post_init__(self) -> None:
        if not 0 <= self.supervised_weight <= 1:
            raise RaylabError(f"task.supervised-weight={self.supervised_weight}: give a number from 0 to 1")

    def collator(self, context: TaskContext) -> EntityCollator:
        """See `tasks.base.TaskConfig`."""
        return EntityCollator(self, context)

    def learner(self, context: TaskContext) -> MofiLearner:
        """See `tasks.base.TaskConfig`."""
        return MofiLearner(self, context)


class EntityCollator(DualCollator):
    """``class_B`` int64: the entity drawn; ``others_BE`` int64: all of the picture's, over and over; ``token_BL``."""

    def __init__(self, config: MofiTask, context: TaskContext) -> None:
        super().__init__(config.encoder, config.crop)
        self.config = config
        more = () if config.more_entities is None else ("mentions", "candidates", "annotation")
        self.columns: Sequence[str] = ("entity_id", *more)
        self.classes = Classes(context.run, context.kb)
        self.wording = Wording(context.kb, config.wording)

    def usable(self, rows: pa.Table) -> np.ndarray:
        """Rows with an entity."""
        return rows["entity_id"].is_valid().to_numpy()

    def __call__(self, rows: pa.Table, draws: Sequence[np.random.Generator]) -> Arrays:
        """See `tasks.base.Collator`."""
        entities = self._entities(rows)
        others_BE = np.stack([np.resize(one, MOST_ENTITIES) for one in entities])
        class_B = np.array([one[draw.integers(len(one))] for one, draw in zip(entities, draws)])
        arrays = {"class_B": class_B, "others_BE": others_BE}
        if self.config.supervised_weight < 1:
            arrays["token_BL"] = self.tokenizer(self.wording(self.classes.kb_rows[class_B], draws)).numpy()
        return arrays

    def _entities(self, rows: pa.Table) -> list[np.ndarray]:
        """Return the numbers of each picture's entities, its label first."""
        labels = self.classes.numbers(rows["entity_id"].combine_chunks())
        if self.config.more_entities is None:
            return [labels[i : i + 1] for i in range(len(labels))]
        told = rows.select(list(self.columns)).to_pylist()
        more = (self._more(row) for row in told)
        return [np.array(list(dict.fromkeys([label, *others])))[:MOST_ENTITIES] for label, others in zip(labels, more)]

    def _more(self, row: dict[str, Any]) -> np.ndarray:
        """Return the numbers of the entities that other mentions speak of and the picture shows as well."""
        shown = further_entities(row, self.config.more_entities or 0.0)
        numbers = self.classes.numbers(pa.array(shown, pa.string()))
        return numbers[numbers >= 0]


def further_entities(row: dict[str, Any], least: float) -> list[str]:
    """Return what a picture shows beside its label, the likeliest first: one candidate a mention at most.

    The label's own mentions are left out, for their candidates are what the label was chosen from; where an annotator
    corrected it, those of the refused candidate, in whose place the label stands; likewise mentions that share letters
    with one of these or with a likelier one. Where no mention is the label's, nobody knows which others are: none.

    Args:
        row: with ``entity_id, mentions, candidates, annotation`` of `schema.LABEL`.
        least: image score of a candidate at least.
    """
    candidates, mentions = row["candidates"] or [], row["mentions"] or []
    refused = (row["annotation"] or {}).get("candidate_id")
    whole = 0, 2**31
    spans = {-1: whole} | {number: (one["start"], one["end"]) for number, one in enumerate(mentions)}
    own = [spans[one["mention"]] for one in candidates if one["entity_id"] in (row["entity_id"], refused)]
    taken = [span for span in own if span != whole] or own  # the whole caption takes every mention's place
    found = []
    for one in sorted(candidates, key=lambda one: -(one["image_score"] or 0)) if taken else ():
        start, end = spans[one["mention"]]
        if (one["image_score"] or 0) >= least and not any(start < other[1] and other[0] < end for other in taken):
            found.append(one["entity_id"])
            taken.append((start, end))
    return found


class MofiLearner(DualLearner):
    """See `tasks.base.Learner`."""

    def __init__(self, config: MofiTask, context: TaskContext) -> None:
        super().__init__(config.encoder)
        self.config, self.context = config, context
        if config.supervised_weight == 1:  # the text tower rests
            for name, parameter in self.module.named_parameters():
                parameter.requires_grad_(name.startswith("clip.visual."))
        if config.supervised_weight > 0:
            self.table = ClassTable(context.class_count, self.module.dim, config.table, context.seed)

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Pictures, and texts where there is a contrastive part."""
        return (batch["image_BHWC"], batch["token_BL"]) if "token_BL" in batch else (batch["image_BHWC"],)

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted sum of both parts, and each of them."""
        parts: dict[str, Tensor] = {}
        weight = self.config.supervised_weight
        if self.table is not None:
            parts["supervised"] = self.table(outputs["image_BD"], batch["class_B"], batch["others_BE"])
        if weight < 1:
            pair = outputs["image_BD"], outputs["text_BD"], outputs["scale"]
            parts["contrastive"] = contrastive_loss(*pair, batch["class_B"], batch["others_BE"])
        weights = {"supervised": weight, "contrastive": 1 - weight}
        return {"loss": torch.stack([weights[name] * part for name, part in parts.items()]).sum(), **parts}

    def describe(self, batch: Mapping[str, Tensor]) -> list[str]:
        """The class nearest to each picture and the right one; without a table, see `own_places`."""
        outputs = self.module(*self.inputs(batch))
        if self.table is None:
            return own_places(outputs)
        nearest_B = self.table.nearest(outputs["image_BD"])
        catalog = Catalog.open(self.context.kb)
        rows = Classes(self.context.run, self.context.kb).kb_rows
        said, right = (
            catalog.take(rows[numbers.cpu().numpy()], ("title",))["title"].to_pylist()
            for numbers in (nearest_B, batch["class_B"])
        )
        return [f"{one} (right: {other})" for one, other in zip(said, right)]
