"""How a model's words are cleaned: the JSON object in its answer, titles, sentences, refusals.

Everything here takes any string, never raises, and takes time linear in the string's length.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from raylab.kb.normalise import fold

SENTENCES = 2
"""Of a rationale: arXiv 2410.23676, section 3.2."""

# Lone surrogates can be in no file; control, bidi and invisible characters have no business in a label.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_INVISIBLE = re.compile("[\ud800-\udfff\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufffe\uffff]+")

# The verbs keep names such as "I'm Sorry" and "I Can't Help Myself" from being taken for refusals.
_VERBS = (
    "(?:assist|help with|identify|recogni[sz]e|determine|provide|answer|comply|process|view|see|fulfil|do|make|tell)"
)
_CANNOT = rf"(?:can['’]?t|cannot|can not|could(?:n['’]t| not)|won['’]t|(?:am|are)(?: unable| not able) to) {_VERBS}\b"
_REFUSAL = re.compile(
    r"^\W*(?:"
    r"(?:(?:i['’]?m|i am|we['’]?re|we are) )?(?:very |so |really )?(?:sorry|unfortunately|i apologi[sz]e)\b[,.:;!]?"
    r" (?:but )?(?:i|we)(?:['’]m)? (?:can|am|are|do|could|must|won|will|un|not)"
    rf"|(?:i|we) {_CANNOT}"
    rf"|i['’]m (?:unable|not able) to {_VERBS}\b"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b[ ,]"
    r"|i (?:must|have to) (?:decline|refuse)\b"
    r")",
    re.IGNORECASE,
)

_URL = re.compile(r"^(?:https?://)?[a-z-]{2,12}(?:\.m)?\.wikipedia\.org/(?:wiki/|w/index\.php\?title=)", re.IGNORECASE)
_PREFIX = re.compile(r"^(?:wikipedia|wp|title)\s*:\s*", re.IGNORECASE)
_SUFFIX = re.compile(r"\s+[-–—|]\s+Wikipedia$", re.IGNORECASE)
_LINK = re.compile(r"^\[{1,2}([^\[\]|]+)(?:\|[^\[\]]*)?\]{1,2}(?:\([^()\s]*\))?$")
_WRAPS = ("**", "__", "``", "*", "`", "_", "@", '"', "'")
_QUOTES = (("“", "”"), ("‘", "’"), ("«", "»"), ("„", "“"))
_NOTHING = ("none", "null", "nothing", "unknown", "n/a", "not applicable", "not available", "unidentified", "no title")

_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9À-ÖØ-Þ])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]|mr|mrs|ms|dr|st|mt|jr|sr|vs|no|ca|cf|approx|inc|ltd|co|corp|bros"
    r"|etc|fig|ft|gen|col|lt|prof|rev|gov|sen|rep|vol|var|ssp|subsp|sp)\.$",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """Return text in one line, without characters that cannot be stored or seen."""
    return " ".join(_CONTROL.sub(" ", _INVISIBLE.sub("", text)).split())


def is_refusal(text: str) -> bool:
    """Whether text is a model's "I'm sorry, but I can't assist with that"."""
    return _REFUSAL.match(clean(text[:500])) is not None


def find_object(text: str) -> tuple[dict[str, Any], int] | None:
    """Return the first JSON object in an answer, and where it starts; None where there is none that is whole.

    What stands around it, such as a code fence, is ignored. An object that says one thing twice is none.
    """
    start = text.find("{")
    if start < 0:
        return None
    try:
        found, _ = json.JSONDecoder(object_pairs_hook=_distinct, strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return (found, start) if isinstance(found, dict) else None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def title_of(text: str) -> str:
    """Return an article's title without what models put around one: quotes, ``@``, markdown, addresses, a full stop.

    Empty where the text only says that there is none.
    """
    title = clean(text)
    marked = re.search(r"@([^@]+)@", title)
    title = marked[1].strip() if marked else title
    for _ in range(4):  # one wrapping inside another
        bare = _unwrap(title)
        if bare == title:
            break
        title = bare
    if "_" in title and " " not in title:
        title = title.replace("_", " ").strip()
    return "" if title.casefold().rstrip(".") in _NOTHING or not re.search(r"\w|[^\x00-\x7f]|!", title) else title


def _unwrap(title: str) -> str:
    title = _SUFFIX.sub("", _PREFIX.sub("", title)).strip()
    url = _URL.match(title)
    if url:
        title = clean(unquote(re.split(r"[?#&]", title[url.end() :])[0], errors="ignore").replace("_", " "))
    link = _LINK.match(title)
    title = link[1].strip() if link else title.lstrip("#").strip() if title.startswith(("# ", "## ")) else title
    for mark in _WRAPS:
        if len(title) > 2 * len(mark) and title.startswith(mark) and title.endswith(mark):
            inner = title[len(mark) : -len(mark)]
            title = inner.strip() if mark not in inner else title  # "Weird" and "Al" keep their own quotes
    for opening, closing in _QUOTES:
        if title.startswith(opening) and title.endswith(closing) and len(title) > 1:
            title = title[1:-1].strip()
    if title.endswith(".") and not title.endswith("..") and not _ABBREVIATION.search(title):
        title = title[:-1].strip()
    return title if title not in ('""', "''", "**") else ""


def first_sentences(text: str, count: int = SENTENCES) -> str:
    """Return the first sentences of a text in one line; the dot of an abbreviation ends none."""
    for found in _END.finditer(text):
        if _ABBREVIATION.search(text[max(0, found.start() - 12) : found.start() + 1]):
            continue
        count -= 1
        if count == 0:
            return text[: found.end()].strip()
    return text


def names(text: str, name: str) -> bool:
    """Whether a text contains a name as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", text.casefold()) is not None


def same(one: str, other: str) -> bool:
    """Whether two texts are the same but for case, accents, gaps and punctuation."""
    return key(one) == key(other)


def key(text: str) -> str:
    """Return what is the same for texts that differ in case, accents, gaps and punctuation alone."""
    return fold(text) or text.casefold()
