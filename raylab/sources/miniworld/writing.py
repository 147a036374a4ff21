"""How an alt-text is written down: pieces of text and names, what the web does to them, and where the names end up."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import NamedTuple

from raylab.sources.miniworld import wording


class Name(NamedTuple):
    """A name inside a caption that is being put together."""

    text: str
    entity_id: str | None
    """What it means here; null where no catalogue holds it."""
    label: str
    """Its type as a named-entity recogniser would say it."""


Pieces = list[str | Name]


@dataclass(frozen=True)
class NamedSpan:
    """A name in a finished caption."""

    start: int
    """First character."""
    end: int
    """One past the last character."""
    entity_id: str | None
    """What it means here; null where no catalogue holds it."""
    label: str
    """Its type as a named-entity recogniser would say it."""


@dataclass(frozen=True)
class Writing:
    """One way in which the web writes a caption down."""

    name: str
    share: float
    """Of all captions."""
    example: str
    """A caption written so."""
    change: Callable[[Pieces, random.Random], Pieces]


@lru_cache(maxsize=1024)
def _parsed(template: str) -> tuple[tuple[str, str | None], ...]:
    return tuple((literal, field) for literal, field, _, _ in Formatter().parse(template))


def fields_of(template: str) -> list[str]:
    """Return the names of the fields in `template`, each once, in order."""
    return list(dict.fromkeys(field for _, field in _parsed(template) if field))


def fill(template: str, fields: Mapping[str, str | Name | Pieces]) -> Pieces:
    """Put `fields` into `template`, names staying apart from the text around them.

    Raises:
        KeyError: for a field that is not given.
    """
    pieces: Pieces = []
    for literal, field in _parsed(template):
        if literal:
            pieces.append(literal)
        if field is not None:
            value = fields[field]
            pieces.extend(value if isinstance(value, list) else [value])
    return pieces


def join(pieces: Pieces) -> tuple[str, tuple[NamedSpan, ...]]:
    """Return the text of `pieces` and the spans of its names, in characters."""
    text, spans = "", []
    for piece in pieces:
        start = len(text)
        text += piece.text if isinstance(piece, Name) else piece
        if isinstance(piece, Name) and piece.text:
            spans.append(NamedSpan(start, len(text), piece.entity_id, piece.label))
    return text, tuple(spans)


def _each(pieces: Pieces, change: Callable[[str], str]) -> Pieces:
    return [piece._replace(text=change(piece.text)) if isinstance(piece, Name) else change(piece) for piece in pieces]


def _as_is(pieces: Pieces, rng: random.Random) -> Pieces:
    return pieces


def _details(pieces: Pieces, rng: random.Random) -> Pieces:
    """Add what a seller or a diarist says besides: the bulk of a long alt-text."""
    return [*pieces, *rng.sample(wording.DETAILS, rng.choice((1, 1, 2)))]


def _search_words(pieces: Pieces, rng: random.Random) -> Pieces:
    """Add a list of search words, some of them with the first name in the caption."""
    name = next((piece for piece in pieces if isinstance(piece, Name)), None)
    listed: Pieces = list(pieces)
    for word in rng.sample(wording.SEARCH_WORDS, rng.randrange(3, 7)):
        listed += [", ", name, f" {word}"] if name and rng.random() < 0.4 else [f", {word}"]
    return listed


def _lower(pieces: Pieces, rng: random.Random) -> Pieces:
    return _each(pieces, str.lower)


def _capitals(pieces: Pieces, rng: random.Random) -> Pieces:
    return _each(pieces, str.upper)


def _file_name(pieces: Pieces, rng: random.Random) -> Pieces:
    mark = rng.choice("--_")
    slug = _each(pieces, lambda text: re.sub(r"[\W_]+", mark, text))
    if rng.random() < 0.6:
        slug = _each(slug, str.lower)
    first, last = slug[0], slug[-1]
    if isinstance(first, str):
        slug[0] = first.lstrip(mark)
    if isinstance(last, str):
        slug[-1] = last.rstrip(mark)
    return [*slug, rng.choice(("", "", ".jpg", ".png", f"{mark}{rng.randrange(1, 30):02d}", f"{mark}scaled"))]


def _hashtags(pieces: Pieces, rng: random.Random) -> Pieces:
    tagged: Pieces = []
    for piece in pieces:
        if isinstance(piece, Name):
            tagged += ["#", piece._replace(text=re.sub(r"\W+", "", piece.text))]
        else:
            tagged.append(piece)
    return [*tagged, *rng.sample((" #travel", " #flags", " #photooftheday", " #love", " #design", " #etsy"), 2)]


def _stock(pieces: Pieces, rng: random.Random) -> Pieces:
    number = rng.randrange(10**6, 10**8)
    endings = (
        " Royalty Free Stock Photo",
        f" — Stock Photo #{number}",
        " - stock photo",
        " Stock Images",
        f" Stock Vector - {number}",
        " Stock Illustration",
    )
    return [*pieces, rng.choice(endings)]


def _shop(pieces: Pieces, rng: random.Random) -> Pieces:
    if rng.random() < 0.5:
        return [rng.choice(("Buy ", "Free Shipping ", "Wholesale ", "Cheap ", "NEW! ", "Hot sale ")), *pieces]
    return [
        *pieces,
        rng.choice((" - free shipping", " for sale", " $12.99", " | 20% off", " best price online", " €9,95")),
    ]


def _site(pieces: Pieces, rng: random.Random) -> Pieces:
    sites = (
        " | Travel Blog",
        " :: Photo Gallery",
        " - Wikipedia",
        " | Pinterest",
        " - Home Page",
        " on Behance",
        " – News",
    )
    return [*pieces, rng.choice(sites)]


def _numbered(pieces: Pieces, rng: random.Random) -> Pieces:
    number = rng.randrange(1, 9999)
    return [
        *pieces,
        rng.choice((f" {number}", f" ({number % 9 + 1})", f"-{number % 90}", f" ID : {number}", f" IMG_{number:04d}")),
    ]


def _spaces(pieces: Pieces, rng: random.Random) -> Pieces:
    how = rng.randrange(3)
    if how == 0:
        return [" ", *pieces]
    if how == 1:
        return [*pieces, "  "]
    return [piece if isinstance(piece, Name) else piece.replace(" ", "  ", 1) for piece in pieces]


def _markup(pieces: Pieces, rng: random.Random) -> Pieces:
    return [
        *_each(pieces, lambda text: text.replace("&", "&amp;")),
        rng.choice(("<br />", " &#8230;", " <em>new</em>", "&nbsp;")),
    ]


def _quoted(pieces: Pieces, rng: random.Random) -> Pieces:
    return ['"', *pieces, '"']


def _cut(pieces: Pieces, rng: random.Random) -> Pieces:
    """Cut the text around the last name, as sites do that keep the first characters only."""
    left = rng.randrange(25, 45)
    kept: Pieces = []
    for piece in pieces:
        text = piece.text if isinstance(piece, Name) else piece
        if len(text) > left:
            # What is left of a name is no name any more.
            kept.append(text[:left])
            break
        kept.append(piece)
        left -= len(text)
    return [*kept, "..."]


def _typo(pieces: Pieces, rng: random.Random) -> Pieces:
    """Change one name by one keystroke."""
    names = [i for i, piece in enumerate(pieces) if isinstance(piece, Name) and len(piece.text) >= 4]
    if not names:
        return pieces
    at = rng.choice(names)
    name = pieces[at]
    assert isinstance(name, Name)
    changed = list(pieces)
    changed[at] = name._replace(text=_mistype(name.text, rng))
    return changed


def _mistype(text: str, rng: random.Random) -> str:
    i = rng.randrange(1, len(text) - 1)
    how = rng.randrange(3)
    if how == 0 and text[i] != text[i + 1]:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    if how == 1:
        return text[:i] + text[i + 1 :]
    return text[:i] + text[i] + text[i:]


WRITINGS = (
    Writing("as is", 0.455, "Kenya flag sticker", _as_is),
    Writing("details", 0.200, "Kenya flag sticker - set of 2, waterproof and UV resistant", _details),
    Writing("site's name", 0.060, "Kenya flag sticker | Travel Blog", _site),
    Writing("lower case", 0.055, "kenya flag sticker", _lower),
    Writing("stock photo", 0.046, "Kenya flag sticker — Stock Photo #11031981", _stock),
    Writing("stray spaces", 0.040, "Kenya  flag sticker ", _spaces),
    Writing("stray number", 0.030, "Kenya flag sticker-3", _numbered),
    Writing("shop talk", 0.030, "Buy Kenya flag sticker", _shop),
    Writing("file name", 0.020, "kenya-flag-sticker-02", _file_name),
    Writing("capitals", 0.015, "KENYA FLAG STICKER", _capitals),
    Writing("search words", 0.010, "Kenya flag sticker, souvenir, Kenya gift, wall art", _search_words),
    Writing("typing error", 0.015, "Keyna flag sticker", _typo),
    Writing("cut short", 0.009, "Kenya flag sti...", _cut),
    Writing("markup", 0.005, "Kenya flag sticker<br />", _markup),
    Writing("quoted", 0.005, '"Kenya flag sticker"', _quoted),
    Writing("hashtags", 0.005, "#Kenya flag sticker #travel #flags", _hashtags),
)
"""How captions are written down. The shares follow 10,000 real alt-texts (the test files of img2dataset)."""
