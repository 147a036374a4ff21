"""What an answer must look like, and what is read from it.

An engine that decodes under a grammar can give nothing but `schema`'s objects; other servers can give anything. Readers
take any row of `records.ANSWER` and return either what it says or a `Refusal`: the reason why it is of no use, and what
may help. They never raise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from raylab.annotate.confidence import confidence
from raylab.annotate.refusal import Refusal, Retry, malformed, read_object, read_tokens, too_long
from raylab.annotate.wording import clean, first_sentences, is_refusal, key, names, same, title_of
from raylab.schema import Reason

if TYPE_CHECKING:
    from raylab.annotate.plan import AnswersConfig

__all__ = ["Pairs", "Refusal", "Retry", "Verdict", "read_description", "read_pairs", "read_verdict", "schema"]

PAIRS = 3
"""Questions an image: arXiv 2410.23676, section 3.3."""
TITLE_CHARS, QUESTION_CHARS, REPLY_CHARS, DESCRIPTION_CHARS = 200, 300, 100, 4000
"""The longest parts of an answer that are kept (our choice)."""
_LEAST_NAME = 3
"""Letters from which a name in a rationale gives the candidate away; "It" and "Go" do not."""


@dataclass(frozen=True)
class Verdict:
    """An answer to ``verify`` or ``name``."""

    decision: str
    """``yes``: the image shows the candidate; ``no``: it shows `title`. An answer to ``name`` is a ``no``."""
    title: str
    """The candidate's for a ``yes``, as it was told; else the model's own words, cleaned."""
    rationale: str
    """At most two sentences."""
    confidence: float | None
    """Probability of decision and title, 0..1; None where the engine tells no log probabilities."""


@dataclass(frozen=True)
class Pairs:
    """An answer to ``questions``: one to three pairs of question and answer, no two of which ask for the same thing."""

    pairs: tuple[tuple[str, str], ...]


@cache
def schema(call: str) -> str:
    """Return the JSON schema of a call's answer. Keys come in the order in which they are to be decided.

    Strings have no ``maxLength``: under it xgrammar (0.2.8) forbids every escape, so that a model that wants to quote a
    sign ends its sentence there. What keeps an answer from running on is the request's ``max_tokens``.

    Args:
        call: one of `prompts.CALLS`.

    Raises:
        KeyError: it is none.
    """
    text = {"type": "string"}
    pair = _object(question=text, answer=text)
    return json.dumps(
        {
            "verify": {
                "anyOf": [
                    _object(decision={"const": "yes"}, rationale=text),
                    _object(decision={"const": "no"}, title=text, rationale=text),
                ]
            },
            "name": _object(title=text, rationale=text),
            "questions": _object(pairs={"type": "array", "items": pair, "minItems": PAIRS, "maxItems": PAIRS}),
            "describe": _object(description=text),
        }[call]
    )


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def read_verdict(answer: Mapping[str, Any], config: AnswersConfig, candidate: str | None) -> Verdict | Refusal:
    """Read an answer to ``verify`` or ``name``.

    Args:
        answer: a row of `records.ANSWER`.
        config: how long a rationale may be.
        candidate: the name of the entity that was asked about; None for ``name``.
    """
    found = read_object(answer)
    if isinstance(found, Refusal):
        return found
    said, start = found
    decision = _decision(said, answer.get("call"))
    words = _words(said)
    if decision is None or isinstance(words, Refusal):
        return words if isinstance(words, Refusal) else malformed(f"the decision is {said.get('decision')!r}")
    title, rationale = words
    refusal = _spoken(title, rationale, config) or (
        _check_yes(title, candidate) if decision == "yes" else _check_no("title" in said, title, rationale, candidate)
    )
    if refusal or not rationale:
        return refusal or malformed("there is no rationale")
    sure = confidence(str(answer["text"]), start, "rationale", *read_tokens(answer))
    return Verdict(decision, candidate or title if decision == "yes" else title, first_sentences(rationale), sure)


def _words(said: Mapping[str, Any]) -> tuple[str, str] | Refusal:
    """Return title and rationale, cleaned; empty where there is none."""
    title, rationale = said.get("title") or "", said.get("rationale") or ""
    if not isinstance(title, str) or not isinstance(rationale, str):
        return malformed("title or rationale is no text")
    return (
        too_long("title", title, TITLE_CHARS) if len(title) > 10 * TITLE_CHARS else (title_of(title), clean(rationale))
    )


def _decision(said: Mapping[str, Any], call: Any) -> str | None:
    """Return ``yes`` or ``no``; None for anything else."""
    given = said.get("decision", "no" if call == "name" else None)
    word = given.strip(" .!*\"'").casefold() if isinstance(given, str) else None
    return word if word in ("yes", "no") else None


def _spoken(title: str, rationale: str, config: AnswersConfig) -> Refusal | None:
    """Check what holds for both decisions."""
    for text in (title, rationale):
        if is_refusal(text):
            return Refusal(Reason.ANSWER_REFUSED, text[:200], Retry.AGAIN)
    if len(title) > TITLE_CHARS:
        return too_long("title", title, TITLE_CHARS)
    if len(rationale) > config.rationale_chars:
        return too_long("rationale", rationale, config.rationale_chars)
    return None


def _check_yes(title: str, candidate: str | None) -> Refusal | None:
    if title and candidate and not same(title, candidate):
        return malformed(f"it says yes to the candidate and calls it {title!r}")
    return None


def _check_no(given: bool, title: str, rationale: str, candidate: str | None) -> Refusal | None:
    if not given:
        return malformed("there is no title")
    if not title:
        return Refusal(Reason.NOT_IDENTIFIED, rationale[:200], Retry.NO)
    if candidate and same(title, candidate):
        return malformed("it says no to the candidate and names it")
    telling = candidate and len(key(candidate)) >= _LEAST_NAME and not names(title, candidate)
    if candidate and telling and names(rationale, candidate):
        return malformed("the rationale names the candidate that it denies")
    return None


def read_pairs(answer: Mapping[str, Any]) -> Pairs | Refusal:
    """Read an answer to ``questions``. Pairs that are of no use are left out as long as one is left.

    Args:
        answer: a row of `records.ANSWER`.
    """
    found = read_object(answer)
    if isinstance(found, Refusal):
        return found
    given = found[0].get("pairs")
    if not isinstance(given, list):
        return malformed("there is no list of pairs")
    kept: list[tuple[str, str]] = []
    seen: set[str] = set()
    refused = ""
    for one in given[: 4 * PAIRS]:
        pair = _pair(one)
        refused = refused or (pair[1] if pair and is_refusal(pair[1]) else "")
        if pair is None or is_refusal(pair[1]):
            continue
        keys = {"question " + key(pair[0]), "answer " + key(pair[1])}
        if not keys & seen:
            kept.append(pair)
            seen |= keys
    if not kept and refused:
        return Refusal(Reason.ANSWER_REFUSED, refused[:200], Retry.AGAIN)
    return Pairs(tuple(kept[:PAIRS])) if kept else malformed(f"none of {len(given)} pairs is of use")


def _pair(one: Any) -> tuple[str, str] | None:
    """Return a pair that is whole, short enough, and whose question does not give its answer away."""
    if not isinstance(one, Mapping):
        return None
    question, reply = one.get("question"), one.get("answer")
    if not (isinstance(question, str) and isinstance(reply, str)):
        return None
    if len(question) > 2 * QUESTION_CHARS or len(reply) > 2 * REPLY_CHARS:
        return None
    question, reply = clean(question), clean(reply)
    whole = 0 < len(question) <= QUESTION_CHARS and 0 < len(reply) <= REPLY_CHARS
    return (question, reply) if whole and not names(question, reply) else None


def read_description(answer: Mapping[str, Any]) -> str | Refusal:
    """Read an answer to ``describe``.

    Args:
        answer: a row of `records.ANSWER`.
    """
    found = read_object(answer)
    if isinstance(found, Refusal):
        return found
    text = found[0].get("description")
    if not isinstance(text, str):
        return malformed("there is no description")
    text = clean(text)
    if not text:
        return Refusal(Reason.ANSWER_EMPTY, "the description is empty", Retry.AGAIN)
    if is_refusal(text):
        return Refusal(Reason.ANSWER_REFUSED, text[:200], Retry.AGAIN)
    return text if len(text) <= DESCRIPTION_CHARS else too_long("description", text, DESCRIPTION_CHARS)
