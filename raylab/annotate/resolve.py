"""From titles in a model's own words to entities of a knowledge base.

A title is looked up as written, then folded (case, accents, punctuation), then without its article or in the other
number, then without its parenthesis, if that fits; what is still unknown may be a misspelt name. Where a parenthesis
fits nobody of the name, the likeliest is a guess, and its low score says so. Whatever is left stays free text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raylab.kb.catalog import Catalog
from raylab.kb.close import CloseIndex, Near
from raylab.kb.close_build import LEAST_LETTERS
from raylab.kb.normalise import fold

MARGIN = 0.02
"""By how much a misspelt name must be liker to its entity's name than to any other entity's (our choice): one letter in
fifty."""
MOST_CHARS = 200
"""Longer titles are nobody's."""
_PARENTHESIS = re.compile(r"^(?P<name>.*\S)\s*\((?P<word>[^()]+)\)$", re.DOTALL)
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)", re.IGNORECASE)
_UNSURE = ("unresolved", "guess")
_STEM = 5
"""Letters in common from which words are taken for forms of one another: footballer, football."""


@dataclass(frozen=True)
class Resolved:
    """The entity that a title names."""

    entity_id: str | None
    """None where no entity is known by it."""
    name: str
    """The entity's title; the given one where there is no entity."""
    how: str
    """``exact``, ``normalised``, ``close`` or ``unresolved``."""
    score: float
    """Likeness of the title and the name that it was found by, 0..1; for ``unresolved`` the best that was seen."""


class _Form(NamedTuple):
    """One way to write a title."""

    text: str
    word: str
    """What stood in parentheses and was left off."""
    as_written: bool


class _Owner(NamedTuple):
    """An entity that a form may mean."""

    row: int
    written: int
    """3: its title to the letter; 2: another name to the letter; 1: its title, folded; 0: another name, folded."""
    prior: float


class Resolver:
    """Finds the entities that titles name. Batched, and the same titles always give the same entities.

    Args:
        catalog: the knowledge base.
        close_match: likeness, 0..1, from which a title counts as a misspelt name; above 1 none does. The index that
            this needs is opened, and where it is missing computed, when the first title asks for it.
    """

    def __init__(self, catalog: Catalog, close_match: float) -> None:
        self._catalog = catalog
        self._close_match = close_match

    @cached_property
    def _index(self) -> CloseIndex:
        return CloseIndex.open(self._catalog)

    def __call__(self, titles: Sequence[str]) -> list[Resolved]:
        """Resolve titles, one result each.

        Raises:
            RaylabError: the index of close names has to be computed and cannot be written.
        """
        distinct = list(dict.fromkeys(titles))
        found = dict(zip(distinct, self._known(distinct)))
        if self._close_match <= 1:
            unsure = [title for title in distinct if found[title].how in _UNSURE and _may_be_close(title)]
            close = self._close(unsure) if unsure else []
            better = [one.entity_id is not None or found[title].how != "guess" for title, one in zip(unsure, close)]
            found.update((title, one) for title, one, fine in zip(unsure, close, better) if fine)
        return [_told(found[title]) for title in titles]

    def link(self, answers: Sequence[str]) -> list[str | None]:
        """Return for each answer the id of the entity that it names, misspelt names and guesses not counted."""
        distinct = list(dict.fromkeys(answers))
        found = dict(zip(distinct, self._known(distinct)))
        ids = {answer: None if one.how == "guess" else one.entity_id for answer, one in found.items()}
        return [ids[answer] for answer in answers]

    def _known(self, titles: Sequence[str]) -> list[Resolved]:
        """Resolve what needs no index of close names."""
        forms = [list(_forms(title)) for title in titles]
        flat = [form for mine in forms for form in mine]
        owners = iter(self._owners(flat, self._catalog.aliases.lookup([form.text for form in flat])))
        chosen = [self._first(title, [(form, next(owners)) for form in mine]) for title, mine in zip(titles, forms)]
        return self._named(titles, chosen)

    def _first(self, title: str, forms: Sequence[tuple[_Form, list[_Owner]]]) -> tuple[int, str, float]:
        """Return row, how and score for the first form that names an entity, or a ``guess``; row -1 if none does."""
        guess = -1, "unresolved", 0.0
        for form, owners in forms:
            if owners:
                owner, fits = self._best(owners, form.word)
                if fits:
                    exact = form.as_written and owner.written >= 2
                    score = 1.0 if form.as_written else _likeness(title, form.text)
                    return owner.row, "exact" if exact else "normalised", score
                guess = guess if guess[0] >= 0 else (owner.row, "guess", _likeness(title, form.text))
        return guess

    def _owners(self, forms: Sequence[_Form], aliases: np.ndarray) -> list[list[_Owner]]:
        """Return who may be meant by each form; a part of a name, such as a surname alone, means nobody."""
        known = np.flatnonzero(aliases >= 0)
        found = self._catalog.aliases.candidates(aliases[known])
        entities = self._catalog.take(found.entity_rows, ("title", "aliases")).to_pylist()
        owners: list[list[_Owner]] = [[] for _ in forms]
        for number, start, stop in zip(known.tolist(), found.indptr[:-1].tolist(), found.indptr[1:].tolist()):
            for at in range(start, stop):
                if not found.is_partial[at]:
                    written = _written(forms[number].text, entities[at], bool(found.is_title[at]))
                    owners[number].append(_Owner(int(found.entity_rows[at]), written, float(found.priors[at])))
        return owners

    def _best(self, owners: Sequence[_Owner], word: str) -> tuple[_Owner, bool]:
        """Return the owner that fits the word in parentheses, then who is so called, then the likeliest.

        And whether it does fit: where nobody does, the likeliest is a guess, and its score says so.
        """
        fits = self._fits([one.row for one in owners], word) if word else [1] * len(owners)
        best = max(range(len(owners)), key=lambda i: (fits[i], owners[i].written, owners[i].prior, -owners[i].row))
        return owners[best], fits[best] > 0

    def _fits(self, rows: Sequence[int], word: str) -> list[int]:
        """Count for each entity the words of a parenthesis that its description and its types speak of."""
        entities = self._catalog.take(np.array(rows), ("title", "description", "types")).to_pylist()
        types = sorted({one for entity in entities for one in entity["types"] or ()})
        at = self._catalog.rows(pa.array(types, pa.string()))
        titles = self._catalog.take(np.maximum(at, 0), ("title",))["title"].to_pylist()
        names = {one: title if row >= 0 else one for one, row, title in zip(types, at.tolist(), titles)}
        texts = [
            " ".join([entity["description"] or "", *(names[one] for one in entity["types"] or ())])
            for entity in entities
        ]
        return [_words_in_common(word, text) for text in texts]

    def _close(self, titles: Sequence[str]) -> list[Resolved]:
        """Resolve misspelt names: as written, then without the parenthesis."""
        forms = [[form for form in _forms(title) if form.as_written] for title in titles]
        flat = [form for mine in forms for form in mine]
        near = self._index.near([_storable(form.text) for form in flat], self._close_match)
        rivals = [[one for one in ones if one.likeness > ones[0].likeness - MARGIN] for ones in near]
        lists = iter(self._with_owners(flat, rivals))
        chosen = []
        for mine in forms:
            judged = [self._judge(next(lists)) for _ in mine]
            fine = [one for one in judged if one[0] >= 0]
            chosen.append(fine[0] if fine else max(judged, key=lambda one: one[2]))
        return self._named(titles, chosen)

    def _with_owners(
        self, forms: Sequence[_Form], near: Sequence[Sequence[Near]]
    ) -> list[list[tuple[float, list[_Owner], str]]]:
        """Return for each form its likest surfaces as likeness, owners, and the word in parentheses."""
        flat = [(form, one) for form, ones in zip(forms, near) for one in ones]
        aliases = np.array([one.alias for _, one in flat], np.int64)
        owners = iter(self._owners([form for form, _ in flat], aliases))
        return [[(one.likeness, next(owners), form.word) for one in ones] for form, ones in zip(forms, near)]

    def _judge(self, near: Sequence[tuple[float, list[_Owner], str]]) -> tuple[int, str, float]:
        """Return row, how and score of the likest name, if it is like enough and its rivals are its entity's too."""
        owned = [one for one in near if one[1]]
        if not owned:
            return -1, "unresolved", 0.0
        likeness, owners, word = owned[0]
        best, fits = self._best(owners, word)
        clear = all(any(owner.row == best.row for owner in mine) for _, mine, _ in owned)
        fine = likeness >= self._close_match and clear and fits
        return (best.row, "close", likeness) if fine else (-1, "unresolved", likeness)

    def _named(self, titles: Sequence[str], chosen: Sequence[tuple[int, str, float]]) -> list[Resolved]:
        rows = np.array([row for row, _, _ in chosen], np.int64)
        entities = self._catalog.take(np.maximum(rows, 0), ("id", "title")).to_pylist() if len(self._catalog) else []
        return [
            Resolved(entities[i]["id"], entities[i]["title"], how, score)
            if row >= 0
            else Resolved(None, title, how, score)
            for i, (title, (row, how, score)) in enumerate(zip(titles, chosen))
        ]


def _told(found: Resolved) -> Resolved:
    """A guess is a loose reading of the title: it is told as ``normalised``, with its score."""
    return replace(found, how="normalised") if found.how == "guess" else found


def _storable(text: str) -> str:
    """Replace lone surrogates, which Arrow holds in no string."""
    return text.encode("utf-8", "replace").decode()


def _may_be_close(title: str) -> bool:
    return len(title) <= MOST_CHARS and len(fold(title)) >= LEAST_LETTERS


def _forms(title: str) -> Iterator[_Form]:
    """Yield the ways in which a title may be written in a knowledge base, the closest first."""
    text = _storable(title[: MOST_CHARS + 1]).strip()
    if not text or len(title) > MOST_CHARS:
        return
    parted = _PARENTHESIS.match(text)
    whole = [(text, "")] + ([(parted["name"], parted["word"])] if parted else [])
    for name, word in whole:
        yield _Form(name, word, True)
        for other in _looser(name):
            yield _Form(other, word, False)


def _looser(name: str) -> Iterator[str]:
    """Yield a name with its article off or on, then in the other number."""
    bare = _ARTICLE.sub("", name)
    if bare != name:
        yield bare
    else:
        yield f"The {name}"
    yield from _other_number(bare)


def _other_number(name: str) -> Iterator[str]:
    """Yield the plural of a singular and the reverse, as English forms them; some of them are no words."""
    low = name.lower()
    if not low[-1:].isalpha() or len(low) < LEAST_LETTERS:
        return
    if low.endswith("ies") and len(low) > LEAST_LETTERS:
        yield name[:-3] + "y"
    if low.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        yield name[:-2]
    if low.endswith("s") and not low.endswith("ss"):
        yield name[:-1]
    else:
        yield name[:-1] + "ies" if low.endswith("y") else name + "s"
        yield name + "es"


def _written(text: str, entity: dict[str, object], is_title: bool) -> int:
    """Return `_Owner.written` for a form and one of its owners."""
    title, aliases = str(entity["title"]), entity["aliases"] or ()
    parted = _PARENTHESIS.match(title)
    if text == title:
        return 3
    if (isinstance(aliases, list) and text in aliases) or (parted and parted["name"] == text):
        return 2
    return 1 if is_title else 0


def _words_in_common(word: str, text: str) -> int:
    """Count the words of one text that are in another, or begin like one of its words."""
    there = {fold(one) for one in re.findall(r"\w+", text)}
    starts = {one[:_STEM] for one in there if len(one) >= _STEM}
    mine = {fold(one) for one in re.findall(r"\w+", word)} - {""}
    return sum(2 if one in there else one[:_STEM] in starts for one in mine)


def _likeness(one: str, other: str) -> float:
    from rapidfuzz import fuzz

    return fuzz.ratio(fold(one), fold(other)) / 100
