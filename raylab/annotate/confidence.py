"""How sure a model was: from the log probabilities of the tokens that spell its decision and its title."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?', re.DOTALL)
_NEAR = 16
"""Characters by which tokens and text may be out of step: pieces of a character, control tokens spelt out."""
_LEAST = -1e6
"""Engines write the logarithm of nought as -inf."""
_RAW = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n", "ĉ": "\t"})
"""How byte-level vocabularies spell white space, where an engine tells the vocabulary's entries and not their text."""


def confidence(text: str, start: int, key: str, tokens: Sequence[str], logprobs: Sequence[float]) -> float | None:
    """Return the probability of everything from a JSON object's start to one of its keys.

    A token across the key's quote counts: what it spells before the quote was decided with it.

    Args:
        text: the answer.
        start: where the object starts in it.
        key: the first key that does not count.
        tokens: the answer's tokens; joined they are the text, or nearly.
        logprobs: natural logarithms, one a token.

    Returns:
        0..1, or None where tokens and text do not fit together or the key is the first one.
    """
    stop = _key_position(text, start, key)
    places = _places(text, tokens)
    if stop is None or places is None or len(tokens) != len(logprobs):
        return None
    ends = [*places[1:], len(text)]
    chosen = [value for value, first, end in zip(logprobs, places, ends) if first < stop and end > start]
    total = sum(min(max(value, _LEAST), 0.0) for value in chosen)
    return math.exp(total) if chosen and not math.isnan(total) else None


def _key_position(text: str, start: int, key: str) -> int | None:
    """Return where a key's opening quote stands; None if there is none, or it is the object's first."""
    for number, found in enumerate(_STRING.finditer(text, start)):
        if found[2] and found[1] == key:
            return found.start() if number else None
    return None


def _places(text: str, tokens: Sequence[str]) -> list[int] | None:
    """Return where each token starts in the text; None where they cannot be told."""
    for spelt in (tokens, [token.translate(_RAW) for token in tokens]):
        places = _walk(text, spelt)
        if places is not None:
            return places
    return None


def _walk(text: str, tokens: Sequence[str]) -> list[int] | None:
    """Lay tokens along the text; those that do not fit, such as pieces of a character, take up no room of their own."""
    places, at, missed = [], 0, 0
    for token in tokens:
        places.append(at)
        if text.startswith(token, at):
            at += len(token)
            continue
        found = text.find(token, at, at + _NEAR + len(token))
        if found < 0:
            missed += 1
        else:
            places[-1], at = found, found + len(token)
    whole = len(text) - at <= _NEAR and missed <= 2 + len(tokens) // 2
    return places if whole else None
