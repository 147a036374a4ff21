"""The report's exhibits: rows that stand for each decision, under a heading that says what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raylab.label import formats
from raylab.label.annotated import STEPS
from raylab.label.samples import Sample
from raylab.label.survey import ANNOTATED, Group

_EXPLAINED = {
    "high": ("Labelled, sure", "score in the upper half, margin not thin"),
    "near": ("Labelled, close call", "score or margin in the lowest tenth: where a threshold would cut next"),
    "overruled": ("The picture overruled the text", "the label is not the entity that the text alone gave"),
    "wrong": ("Labelled wrong", "by the known truth"),
    "low_score": ("Abstained: low score", "no candidate looks enough like the picture"),
    "low_margin": ("Abstained: low margin", "the two best candidates are too close to tell"),
    "no_candidates": ("No candidates", "nothing in the text leads to an entity"),
    "rare_entity": ("Rare entity", "too few labelled images of it in the run"),
    "verified": ("Verified", "the annotator said that the picture shows the candidate"),
    "corrected": ("Corrected", "the annotator named another entity, and the knowledge base has it"),
    "unresolved": (
        "Unresolved titles",
        "the annotator named what no entity is called; kept as free text, without an id",
    ),
    "answer_empty": ("Refused: empty answer", ""),
    "answer_malformed": ("Refused: malformed answer", "not the JSON that was asked for"),
    "answer_truncated": ("Refused: answer cut off", "it hit its limit of tokens"),
    "answer_refused": ("Refused by the model", "it would not answer"),
    "answer_too_long": ("Refused: answer too long", ""),
    "not_identified": ("Not identified", "the annotator could not name what the picture shows"),
    "low_confidence": ("Rejected: low confidence", "the model gave its own decision and title too little probability"),
    "prompt_too_long": ("Prompt too long", "for the model's context, even when shortened"),
    "request_refused": ("Request refused", "by the engine or the server"),
    "engine_crash": ("Engine crash", "the engine died with this request alone in hand"),
    "eval_leak": ("Evaluation leak", "too close to an image of an evaluation set"),
}


@dataclass(frozen=True)
class Exhibit:
    """A decision with the rows that stand for it."""

    anchor: str
    title: str
    note: str
    total: int
    samples: list[Sample]


def in_order(groups: Sequence[Group], summary: Mapping[str, Any]) -> list[Group]:
    """Return labelled groups first, then the steps' rejects, the last step (the closest decisions) first."""
    place = {step["name"]: number for number, step in enumerate(summary["steps"])}
    return sorted(groups, key=lambda group: 0 if group.step is None else len(place) + 1 - place.get(group.step, 0))


def make_exhibit(group: Group, samples: Mapping[str, Sample]) -> Exhibit:
    """Return a group of rows under its heading."""
    title, note = _EXPLAINED.get(group.decision, (formats.words(group.decision).capitalize(), ""))
    if group.step is not None:
        note = f"step {group.step}" + (f": {note}" if note else "")
    shown = [samples[row["row_id"]] for row in group.rows]
    return Exhibit(f"rows-{group.step or 'labelled'}-{group.decision}", title, note, group.total, shown)


def of_annotator(group: Group) -> bool:
    """Tell whether the annotator made a group's decision."""
    return group.decision in ANNOTATED if group.step is None else group.step in STEPS
