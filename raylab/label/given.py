"""The step of data whose labels are known: the source's truth is taken as the label, and asked for by the caption.

Sources such as OVEN's training files (`sources.oven`) name the entity that answers a question about a picture. Nothing
is left to find out, but for its title in the knowledge base, which is what a generative recogniser is to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.kb.catalog import Catalog
from raylab.label.evidence import note_model
from raylab.label.step import StepContext
from raylab.schema import ANNOTATION, Reason, alive, reject, set_column

STEP = "given"


@dataclass(frozen=True)
class GivenConfig:
    """Whether labels are given, and what captions are."""

    enabled: bool = False
    """Instead of all other steps. A recipe turns it on."""
    questions: bool = True
    """Captions are questions that the entity answers, and are kept as such; else the entity alone is taken."""

    def build(self, context: StepContext) -> Given:
        """Map the knowledge base.

        Raises:
            RaylabError: it cannot be opened.
        """
        return Given(self, Catalog.open(context.kb))


class Given:
    """The step: fills `entity_id` with the first entity of `truth`, its title, and `annotation.questions`.

    A row without truth is rejected, and so is one whose entity the knowledge base does not have.
    """

    def __init__(self, config: GivenConfig, catalog: Catalog) -> None:
        self.config = config
        self._catalog = catalog
        self._model = f"kb@{catalog.info.fingerprint}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return `batch` with the labels of the rows still in the flow."""
        batch = note_model(batch, STEP, self._model)
        ids = _first(batch["truth"])
        rows = np.where(ids.is_valid(), self._catalog.rows(ids.fill_null("")), -1)
        batch = reject(batch, STEP, *_refusals(ids, rows))
        found = alive(batch).combine_chunks()
        titles = self._catalog.take(np.maximum(rows, 0), ("title",))["title"].combine_chunks()
        values = {"entity_id": ids, "entity_name": titles}
        if self.config.questions:
            values["annotation"] = _asked(batch["caption"].combine_chunks(), titles, ids)
        for name, new in values.items():
            batch = set_column(batch, name, pc.if_else(found, new, batch[name]))
        return batch


def _first(truth: pa.ChunkedArray) -> pa.StringArray:
    """Return the first id of each list, null where there is none."""
    lists = truth.combine_chunks()
    has = pc.fill_null(pc.greater(pc.list_value_length(lists), 0), False)
    firsts = pc.list_element(pc.if_else(has, lists, pa.scalar([""], lists.type)), 0)
    return pc.if_else(has, firsts, pa.scalar(None, pa.string()))


def _refusals(ids: pa.StringArray, rows: np.ndarray) -> tuple[list[Reason | None], list[str | None]]:
    reasons: list[Reason | None] = [None] * len(ids)
    details: list[str | None] = [None] * len(ids)
    for at in np.flatnonzero(rows < 0):
        missing = ids[int(at)].as_py()
        reasons[at] = Reason.NO_CANDIDATES if missing is None else Reason.UNKNOWN_ENTITY
        details[at] = "the source names no entity" if missing is None else f"{missing} is not in the knowledge base"
    return reasons, details


def _asked(questions: pa.StringArray, answers: pa.StringArray, ids: pa.StringArray) -> pa.StructArray:
    """Return annotations of one question each; what an annotator would have added is null."""
    kind = ANNOTATION.field("questions").type
    pairs = pa.StructArray.from_arrays([questions, answers, ids], fields=list(kind.value_type))
    offsets = pa.array(np.arange(len(pairs) + 1), pa.int32())
    told = {"questions": pa.ListArray.from_arrays(offsets, pairs, type=kind)}
    columns = [told.get(field.name, pa.nulls(len(pairs), field.type)) for field in ANNOTATION]
    return pa.StructArray.from_arrays(columns, fields=list(ANNOTATION))
