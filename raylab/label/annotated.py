"""What an annotator's answers came to, in figures: the block ``annotation`` of a run's summary.

A row is *verified* or *corrected* if the annotator decided so and the step `verify` let it pass. A correction is free
text; it is *resolved* where it names an entity of the knowledge base.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from raylab.label.audit import is_true
from raylab.schema import MODEL

STEPS = ("verify", "questions")
"""The steps whose rejections are the annotator's."""
UNRESOLVED = "unresolved"
_FIELDS = (
    "decision",
    "resolution",
    "candidate_id",
    "rescued",
    "prompts",
    "prompt_tokens",
    "answer_tokens",
    "questions",
)


def annotation_figures(*parts: ds.Dataset) -> dict[str, Any]:
    """Count what the annotator did.

    Args:
        parts: the run's labels and rejects.

    Returns:
        Empty where no row has an annotation, else

        - ``annotated``: rows that the annotator was asked about; ``rescued``: those among them that the selection had
          rejected;
        - ``verified``, ``corrected``: see above; ``unresolved``: corrected, and the title names no entity;
          ``resolved_share``: the others' share of the corrected ones, null without any;
        - ``by_resolution``: rows a way in which a verified or corrected entity was found;
        - ``by_reason``: annotated rows a reason for which verify or questions rejected them;
        - ``prompts``: rows that have an answer to each prompt, by its id; ``model``: ``id@revision``;
        - ``prompt_tokens``, ``answer_tokens``: of all requests;
        - ``questions``: question-answer pairs kept; ``linked_answers``: answers among them that name an entity;
        - ``decisions``, where truth is known: ``{decision: {"known", "right_before", "right"}}``: rows with known
          truth, those that were right with the candidate, those that are right with the final entity.
    """
    total = _Total()
    for table in _annotated(parts):
        total.add(table)
    return total.figures()


class _Total:
    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.kinds: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.decisions: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.model: str | None = None

    def add(self, table: pa.Table) -> None:
        """Count annotated rows: the columns of `_annotated`."""
        stopped = pc.fill_null(pc.equal(table["reject_step"], "verify"), False)
        passed = table.filter(pc.and_(table["decision"].is_valid(), pc.invert(stopped)))
        self.counts["annotated"] += table.num_rows
        self.counts["rescued"] += pc.sum(table["rescued"]).as_py() or 0
        self.counts[UNRESOLVED] += pc.sum(pc.equal(passed["resolution"], UNRESOLVED)).as_py() or 0
        for name in ("prompt_tokens", "answer_tokens"):
            self.counts[name] += pc.sum(table[name]).as_py() or 0
        pairs = pc.list_flatten(passed["questions"])
        self.counts["questions"] += len(pairs)
        self.counts["linked_answers"] += len(pairs) - pc.struct_field(pairs, "answer_id").null_count
        refused = table.filter(pc.is_in(table["reject_step"], pa.array(STEPS)))
        self._count("decision", passed["decision"])
        self._count("resolution", passed["resolution"])
        self._count("reason", refused["reject_reason"])
        self._count("prompts", pc.list_flatten(table["prompts"]))
        self._judge(passed)
        self.model = self.model or _model(table)

    def _count(self, kind: str, values: pa.ChunkedArray) -> None:
        for value, n in zip(*values.combine_chunks().value_counts().flatten()):
            if value.is_valid:
                self.kinds[kind][value.as_py()] += n.as_py()

    def _judge(self, passed: pa.Table) -> None:
        known = passed.filter(passed["truth"].is_valid())
        before, after = (is_true(known, name) for name in ("candidate_id", "entity_id"))
        decisions = np.array(known["decision"].to_pylist(), dtype=object)
        for decision in set(decisions):
            mine = decisions == decision
            counted = {"known": mine, "right_before": mine & before, "right": mine & after}
            self.decisions[decision].update({name: int(mask.sum()) for name, mask in counted.items()})

    def figures(self) -> dict[str, Any]:
        counts, kinds = self.counts, self.kinds
        if not counts["annotated"]:
            return {}
        corrected = kinds["decision"]["corrected"]
        judged = {name: dict(self.decisions[name]) for name in sorted(self.decisions, reverse=True)}
        return {
            "annotated": counts["annotated"],
            "rescued": counts["rescued"],
            "verified": kinds["decision"]["verified"],
            "corrected": corrected,
            "unresolved": counts[UNRESOLVED],
            "resolved_share": round(1 - counts[UNRESOLVED] / corrected, 6) if corrected else None,
            "by_resolution": dict(kinds["resolution"].most_common()),
            "by_reason": dict(kinds["reason"].most_common()),
            "prompts": dict(kinds["prompts"].most_common()),
            "model": self.model,
            "prompt_tokens": counts["prompt_tokens"],
            "answer_tokens": counts["answer_tokens"],
            "questions": counts["questions"],
            "linked_answers": counts["linked_answers"],
            **({"decisions": judged} if judged else {}),
        }


def _annotated(parts: tuple[ds.Dataset, ...]) -> Iterator[pa.Table]:
    """Yield the annotated rows of all parts, a batch at a time, the annotation's fields as columns of their own."""
    for part in parts:
        names = set(part.schema.names)
        columns = {name: pc.field(name) for name in ("truth", "entity_id", "models")}
        for name in ("reject_step", "reject_reason"):
            columns[name] = pc.field(name) if name in names else pc.scalar(pa.scalar(None, pa.string()))
        columns |= {name: pc.field("annotation", name) for name in _FIELDS}
        for batch in part.to_batches(columns=columns, filter=pc.is_valid(pc.field("annotation"))):
            if batch.num_rows:
                yield pa.Table.from_batches([batch])


def _model(table: pa.Table) -> str | None:
    """The annotator is the same for all rows of a run: the first note of it tells."""
    notes = pc.list_flatten(table["models"]).cast(MODEL)
    mine = notes.filter(pc.equal(pc.struct_field(notes, "step"), "verify"))
    return mine[0]["model"].as_py() if len(mine) else None
