"""From a segment's rows and their answers to the rows that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from raylab.annotate.conversation import STEPS, State
from raylab.annotate.prompts import Prompt
from raylab.label.evidence import note_model
from raylab.schema import ANNOTATION, Reason, reject, set_column


def finish(
    rows: pa.Table,
    states: Sequence[State],
    answers: Sequence[Sequence[Mapping[str, Any]]],
    prompts: Mapping[str, Prompt],
    model: str,
) -> pa.Table:
    """Write what the answers come to into the rows: entity, annotation, model; or why a row leaves the flow.

    Args:
        rows: a segment's rows in flight, with the candidate as their entity.
        states: one a row, none of them with anything left to ask.
        answers: one list a row.
        prompts: the part it plays -> prompt.
        model: ``id@revision`` of the annotator.
    """
    plain = rows.select(["entity_id", "entity_name", "score", "rescued"]).to_pylist()
    annotations = [_annotation(*one, prompts) for one in zip(plain, states, answers)]
    final = [_final(row, state) for row, state in zip(plain, states)]
    rows = rows.drop_columns(["rescued"])
    rows = set_column(rows, "annotation", pa.array(annotations, ANNOTATION))
    rows = set_column(rows, "entity_id", pa.array([one[0] for one in final], pa.string()))
    rows = set_column(rows, "entity_name", pa.array([one[1] for one in final], pa.string()))
    rows = note_model(rows, "verify", model)
    return _refuse(rows, states)


def _refuse(rows: pa.Table, states: Sequence[State]) -> pa.Table:
    for step in ("verify", "questions"):
        mine = [state.refusal if state.refusal and STEPS[state.refused_part] == step else None for state in states]
        reasons: list[Reason | None] = [one.reason if one else None for one in mine]
        rows = reject(rows, step, reasons, [one.detail if one else None for one in mine])
    return rows


def _decision(row: Mapping[str, Any], state: State) -> str | None:
    """A correction that names the candidate again, by another of its names, verifies it."""
    if state.verdict is None:
        return None
    same = state.resolved is None or state.resolved.entity_id == row["entity_id"]
    return "verified" if same else "corrected"


def _final(row: Mapping[str, Any], state: State) -> tuple[str | None, str | None]:
    """Return id and name of the entity that the row ends with; free text has no id."""
    if state.resolved is None:
        return row["entity_id"], row["entity_name"]
    return state.resolved.entity_id, state.resolved.name


def _annotation(
    row: Mapping[str, Any], state: State, answers: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt]
) -> dict[str, Any]:
    answered = {answer["call"] for answer in answers}
    verdict, resolved = state.verdict, state.resolved
    return {
        "decision": _decision(row, state),
        "candidate_id": row["entity_id"],
        "candidate_name": row["entity_name"],
        "candidate_score": row["score"],
        "rescued": row["rescued"],
        "title": verdict and (row["entity_name"] if verdict.decision == "yes" else verdict.title),
        "resolution": resolved.how if resolved else ("candidate" if verdict else None),
        "resolution_score": resolved.score if resolved else (1.0 if verdict else None),
        "confidence": verdict and verdict.confidence,
        "description": state.description,
        "rationale": verdict and verdict.rationale,
        "questions": _questions(state),
        "prompts": [prompt.id for prompt in prompts.values() if prompt.call in answered],
        "attempts": len(answers),
        "prompt_tokens": sum(answer["prompt_tokens"] or 0 for answer in answers),
        "answer_tokens": sum(answer["answer_tokens"] or 0 for answer in answers),
    }


def _questions(state: State) -> list[dict[str, str | None]] | None:
    if state.pairs is None:
        return None
    return [
        {"question": question, "answer": answer, "answer_id": answer_id}
        for (question, answer), answer_id in zip(state.pairs.pairs, state.answer_ids)
    ]
