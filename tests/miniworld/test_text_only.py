"""How far the text alone leads: a plain linker over a dict of names, with p(entity | name) by popularity and hints."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from raylab.sources.miniworld.catalogue import kb_rows
from raylab.sources.miniworld.samples import sample

ROWS = 2000

_WORD = re.compile(r"[^\W_]+")
_HINT_WEIGHT = 20.0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


class TextLinker:
    """Links a caption to the entity of the highest prior, raised by each word that the entity's description shares."""

    def __init__(self, use_hints: bool) -> None:
        self._use_hints = use_hints
        self._owners: dict[str, dict[str, float]] = {}
        self._about: dict[str, set[str]] = {}
        for row in kb_rows():
            self._about[row["id"]] = {
                word.rstrip("s") for word in _words(" ".join([row["description"], *row["types"]]))
            }
            for name in (row["title"], *row["aliases"]):
                if key := " ".join(_words(name)):
                    self._owners.setdefault(key, {})[row["id"]] = row["popularity"]
        self._longest = max(len(name.split()) for name in self._owners)

    def candidates(self, caption: str) -> Iterator[dict[str, float]]:
        """Yield p(entity | name) for each name in the caption: longest first, left to right, not overlapping."""
        words, at = _words(caption), 0
        while at < len(words):
            sizes = range(min(self._longest, len(words) - at), 0, -1)
            size = next((n for n in sizes if " ".join(words[at : at + n]) in self._owners), 0)
            if size:
                owners = self._owners[" ".join(words[at : at + size])]
                total = sum(owners.values())
                yield {entity_id: popularity / total for entity_id, popularity in owners.items()}
            at += max(size, 1)

    def link(self, caption: str) -> str | None:
        said = {word.rstrip("s") for word in _words(caption)}
        best, best_score = None, 0.0
        for owners in self.candidates(caption):
            for entity_id, prior in owners.items():
                hints = len(self._about[entity_id] & said) if self._use_hints else 0
                if prior * _HINT_WEIGHT**hints > best_score:
                    best, best_score = entity_id, prior * _HINT_WEIGHT**hints
        return best


@pytest.mark.parametrize("seed", [7, 1007])
def test_the_text_alone_misleads_but_holds_the_answer(seed):
    """Wrong is a link to what the picture does not hold; rows without a link do not count."""
    linkers = [TextLinker(use_hints=False), TextLinker(use_hints=True)]
    found = [sample(seed, index) for index in range(ROWS)]
    for linker in linkers:
        links = [linker.link(row.caption.text) for row in found]
        wrong = sum(link is not None and link not in row.entity_ids for link, row in zip(links, found))
        assert wrong / ROWS > 0.36
    with_entity = [row for row in found if row.entity_ids]
    reachable = sum(
        any(set(row.entity_ids) & owners.keys() for owners in linkers[0].candidates(row.caption.text))
        for row in with_entity
    )
    assert reachable / len(with_entity) > 0.90
