"""From a row of `records.ANSWER` to the JSON object in its text, or to the reason why there is none."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raylab.annotate.records import Problem
from raylab.annotate.wording import clean, find_object, is_refusal
from raylab.schema import Reason

TEXT_CHARS = 100_000
"""The longest answer that is read at all (our choice)."""


class Retry(enum.StrEnum):
    """What may help where an answer is of no use."""

    NO = "no"
    AGAIN = "again"
    """Another seed, another temperature."""
    LONGER = "longer"
    """It was cut off: more tokens."""
    SHORTER = "shorter"
    """The prompt is too long: a shorter summary and caption."""


@dataclass(frozen=True)
class Refusal:
    """Why an answer is of no use."""

    reason: Reason
    detail: str
    retry: Retry


def _problem(problem: str) -> tuple[Reason, Retry]:
    """Return what an engine's problem means for the row. Pictures that could not be sent bring a `Reason` along."""
    known: dict[str, tuple[Reason, Retry]] = {
        Problem.PROMPT_TOO_LONG: (Reason.PROMPT_TOO_LONG, Retry.SHORTER),
        Problem.IMAGE_REFUSED: (Reason.IMAGE_CORRUPT, Retry.NO),  # the model's own processor could not use it
        Problem.REQUEST_REFUSED: (Reason.REQUEST_REFUSED, Retry.NO),
        Problem.ENGINE_CRASH: (Reason.ENGINE_CRASH, Retry.NO),
    }
    other = {reason.value: reason for reason in Reason}.get(problem, Reason.REQUEST_REFUSED)
    return known.get(problem, (other, Retry.NO))


def read_object(answer: Mapping[str, Any]) -> tuple[dict[str, Any], int] | Refusal:
    """Return the JSON object of an answer and where it starts in its text, or why there is none."""
    problem, text = str(answer.get("problem") or ""), answer.get("text")
    if problem:
        reason, retry = _problem(problem)
        return Refusal(reason, clean(str(answer.get("detail") or problem)[:500]), retry)
    if not isinstance(text, str) or not text.strip():
        return Refusal(Reason.ANSWER_EMPTY, "the model said nothing", Retry.AGAIN)
    if len(text) > TEXT_CHARS:
        return too_long("answer", text, TEXT_CHARS)
    return find_object(text) or _no_object(text, answer)


def _no_object(text: str, answer: Mapping[str, Any]) -> Refusal:
    """Say why a text holds no JSON object that is whole."""
    if is_refusal(text):
        return Refusal(Reason.ANSWER_REFUSED, clean(text[:200]), Retry.AGAIN)
    if answer.get("finish") == "length":
        tokens = answer.get("answer_tokens")
        return Refusal(Reason.ANSWER_TRUNCATED, f"cut off after {tokens} tokens: …{clean(text[-100:])}", Retry.LONGER)
    return malformed(f"not the JSON that was asked for: {clean(text[:200])}")


def read_tokens(answer: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """Return tokens and log probabilities; none where they are missing or no such thing."""
    tokens, values = answer.get("tokens"), answer.get("logprobs")
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) > TEXT_CHARS:
        return [], []
    fine = all(isinstance(one, str) for one in tokens) and all(isinstance(one, int | float) for one in values)
    return (tokens, values) if fine else ([], [])


def malformed(detail: str) -> Refusal:
    """Return the refusal of an answer that does not say what it should."""
    return Refusal(Reason.ANSWER_MALFORMED, detail[:500], Retry.AGAIN)


def too_long(what: str, text: str, most: int) -> Refusal:
    """Return the refusal of an answer of which a part is too long."""
    detail = f"the {what} has {len(text)} characters, at most {most} are kept"
    return Refusal(Reason.ANSWER_TOO_LONG, detail, Retry.AGAIN)
