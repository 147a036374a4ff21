"""The alias index: which surfaces name which entities, and where they stand in a batch of captions.

On disk it is a folder of plain numpy arrays that every process of a node maps and none copies. An alias is a number:
the rank of its hash (`hashing`). Reading is shared with the build (`normalise`), so that a caption and an alias can
never be folded apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raylab.kb.hashing import HashIndex, open_array
from raylab.kb.normalise import PHRASE_TOKENS, Chunk, Folding, Tokens, read

TITLE, ALIAS, PARTIAL = 0, 1, 2
"""How an entity owns an alias: its title, another name, or a part of its name (a person's surname)."""
KIND = 0b11
"""The bits of an owner record that hold the above; the rest are forms."""

IN_LOWER, IN_TITLE, IN_UPPER, FUNCTION, SURNAME = 4, 8, 16, 32, 64
"""How an alias is written: without capitals (or only its first letter, of several words) | with some | all in capitals;
and: made of function words alone (``it``, ``The Who``); to all its owners only a partial name."""

FREE, LOWER_CASE, TITLE_CASE, UPPER_CASE = 0, 1, 2, 3
"""How a match is written in its caption; `FREE` where that says nothing: a caption all in one case, letters without."""


class Matches(NamedTuple):
    """Alias matches in a batch, in reading order; one entry each."""

    row: np.ndarray
    """int32: the caption's number in the batch."""
    start: np.ndarray
    end: np.ndarray
    """int32: character offsets into the original caption, end exclusive."""
    alias: np.ndarray
    """int64: alias number."""
    case: np.ndarray
    """uint8: `FREE`, `LOWER_CASE`, `TITLE_CASE` or `UPPER_CASE`."""


class Candidates(NamedTuple):
    """Owners of some aliases: those of the i-th are entries ``indptr[i]:indptr[i + 1]``, likeliest first."""

    indptr: np.ndarray
    """int64 [aliases + 1]."""
    entity_rows: np.ndarray
    """int64: rows of the catalogue."""
    priors: np.ndarray
    """float32: p(entity | alias), they sum to 1 per alias."""
    is_partial: np.ndarray
    """bool: the alias is only a part of the entity's name."""
    is_title: np.ndarray
    """bool: the alias is the entity's title."""
    forms: np.ndarray
    """uint8: `IN_LOWER`, `IN_TITLE`, `IN_UPPER` bits of this entity's own spelling."""


@dataclass(frozen=True)
class AliasIndex:
    """All surfaces of a knowledge base, mapped."""

    index: HashIndex
    folding: Folding
    forms: np.ndarray
    """uint8 [aliases]: how the alias is written, over all owners."""
    gaps: np.ndarray
    """uint8 [aliases]: bit k - 1: it may be written as k words."""
    indptr: np.ndarray
    """uint32 [aliases + 1]: where its owners start."""
    entities: np.ndarray
    """int32 [owners]: rows of the catalogue, by falling prior."""
    priors: np.ndarray
    """float32 [owners]."""
    kinds: np.ndarray
    """uint8 [owners]: `TITLE`, `ALIAS` or `PARTIAL` in the two lowest bits, the owner's forms above."""

    ARRAYS = ("forms", "gaps", "indptr", "entities", "priors", "kinds")

    @classmethod
    def open(cls, folder: Path) -> AliasIndex:
        """Map the index saved in `folder`; reads nothing but the headers."""
        arrays = {name: open_array(folder / f"{name}.npy") for name in cls.ARRAYS}
        return cls(HashIndex.open(folder), Folding.open(folder), **arrays)

    def save(self, folder: Path) -> None:
        """Write everything into `folder`."""
        self.index.save(folder)
        self.folding.save(folder)
        for name in self.ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))

    def __len__(self) -> int:
        return len(self.index)

    def match(self, captions: pa.Array | pa.ChunkedArray) -> Matches:
        """Find the aliases in each caption: longest first, left to right, not overlapping.

        A match is a run of at most `PHRASE_TOKENS` tokens inside one phrase, written in a way that fits the alias:
        ``us`` is not ``US``, ``may`` is not ``May`` and ``reading`` is not ``Reading``, unless the whole caption is in
        one case. Numbers, single letters and lone function words are left out, and surnames without a capital.

        Args:
            captions: strings, nulls allowed.
        """
        parts = [self._match_chunk(chunk) for chunk in read(captions, self.folding) if len(chunk.tokens)]
        types = (np.int32, np.int32, np.int32, np.int64, np.uint8)
        return Matches(
            *(
                np.concatenate([part[i] for part in parts]) if parts else np.zeros(0, dtype)
                for i, dtype in enumerate(types)
            )
        )

    def _match_chunk(self, chunk: Chunk) -> Matches:
        tokens = chunk.tokens
        first, last = _runs(tokens)
        alias = self.index.find(tokens.hash(first, last))
        known = np.flatnonzero(alias >= 0)
        first, last, alias = first[known], last[known], alias[known]
        case = _case(chunk, first, last)
        fits = self._fits(tokens, first, last, alias, case)
        first, last, alias, case = first[fits], last[fits], alias[fits], case[fits]
        chosen = _leftmost_longest(tokens, first, last)
        first, last, alias, case = first[chosen], last[chosen], alias[chosen], case[chosen]
        text = tokens.text[first]
        origin = chunk.starts[text]
        return Matches(
            (text + np.int32(chunk.first)).astype(np.int32),
            (tokens.start[first] - origin).astype(np.int32),
            (tokens.end[last] - origin).astype(np.int32),
            alias,
            case,
        )

    def _fits(
        self, tokens: Tokens, first: np.ndarray, last: np.ndarray, alias: np.ndarray, case: np.ndarray
    ) -> np.ndarray:
        """Tell which known runs are written like their alias, bool."""
        forms = self.forms[alias]
        letters = tokens.letters[1][last] - tokens.letters[0][first]
        function = (forms & FUNCTION) > 0
        acronym = (forms & (IN_LOWER | IN_TITLE)) == 0
        fits = (self.gaps[alias] & tokens.gap_pattern(first, last)) > 0
        fits &= (case != LOWER_CASE) | ((forms & IN_LOWER) > 0)
        fits &= (case != TITLE_CASE) | ~acronym | (letters > 3)
        fits &= (case != UPPER_CASE) | ((forms & IN_UPPER) > 0) | (letters > 3)
        # function words name something only as a written-out acronym (IT, WHO) or as a title of several words (The Who)
        phrase = tokens.spaces[last] > tokens.spaces[first]
        spelled = ((case == UPPER_CASE) & ((forms & IN_UPPER) > 0)) | ((case == TITLE_CASE) & phrase)
        small = tokens.upper[1][last] == tokens.upper[0][first]
        return fits & (~function | spelled) & ~(small & ((forms & SURNAME) > 0))

    def lookup(self, surfaces: Sequence[str] | pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the alias number of each whole surface, int64, -1 where it is unknown; case and gaps are not asked."""
        strings = surfaces if isinstance(surfaces, (pa.Array, pa.ChunkedArray)) else pa.array(surfaces, pa.string())
        found = np.full(len(strings), -1, np.int64)
        for chunk in read(strings, self.folding):
            if len(chunk.tokens):
                texts, first, last = whole(chunk.tokens)
                found[chunk.first + texts] = self.index.find(chunk.tokens.hash(first, last))
        return found

    def candidates(self, alias: np.ndarray) -> Candidates:
        """Return the owners of each alias with their priors.

        Args:
            alias: alias numbers, integer [n], none negative.
        """
        begin = self.indptr[alias].astype(np.int64)
        count = self.indptr[np.asarray(alias) + 1].astype(np.int64) - begin
        indptr = np.zeros(len(count) + 1, np.int64)
        np.cumsum(count, out=indptr[1:])
        at = np.arange(indptr[-1]) + np.repeat(begin - indptr[:-1], count)
        kinds = self.kinds[at]
        kind = kinds & KIND
        return Candidates(
            indptr,
            self.entities[at].astype(np.int64),
            self.priors[at],
            kind == PARTIAL,
            kind == TITLE,
            kinds & ~np.uint8(KIND),
        )


def whole(tokens: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each text that has tokens: its number, its first and its last token."""
    first = np.flatnonzero(np.diff(tokens.text, prepend=-1))
    last = np.append(first[1:], len(tokens)) - 1
    return tokens.text[first], first, last


def _runs(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last token of each run that may be a name."""
    firsts, lasts = [], []
    start = np.flatnonzero(tokens.can_start)
    for extra in range(PHRASE_TOKENS):
        start = start[start + extra < len(tokens)]
        start = start[tokens.phrase[start + extra] == tokens.phrase[start]]
        ended = start[tokens.can_end[start + extra]]
        if extra == 0:  # no lone letters and no bare numbers
            letters = tokens.letters[1][ended] - tokens.letters[0][ended]
            figures = tokens.digits[1][ended] - tokens.digits[0][ended]
            ended = ended[(letters > 1) & (figures < letters)]
        firsts.append(ended)
        lasts.append(ended + extra)
    return np.concatenate(firsts), np.concatenate(lasts)


def _case(chunk: Chunk, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Tell how each run is written, uint8; `FREE` in a caption all in one case and in a lower-case hashtag."""
    tokens = chunk.tokens
    upper = tokens.upper[1][last] - tokens.upper[0][first]
    lower = tokens.lower[1][last] - tokens.lower[0][first]
    case = np.where(upper == 0, LOWER_CASE, np.where((lower == 0) & (upper > 1), UPPER_CASE, TITLE_CASE))
    text = tokens.text[first]
    free = (chunk.upper[text] == 0) | (chunk.lower[text] == 0) | (upper + lower == 0)
    free |= tokens.tagged[first] & (upper == 0)  # hashtags are rarely written with care
    return np.where(free, FREE, case).astype(np.uint8)


def _leftmost_longest(tokens: Tokens, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the numbers of the runs that a reader who always takes the longest name takes, from left to right."""
    size = len(tokens)
    best = np.full(size, -1, np.int64)  # the run that is longest at each token
    order = np.argsort(last - first, kind="stable")
    best[first[order]] = order
    jump = np.arange(1, size + 2)
    has = np.flatnonzero(best >= 0)
    jump[has] = last[best[has]] + 1
    jump[size] = size
    # Which tokens does the reader step on? Pointer doubling from the chunk's first token; names stay inside a text.
    seen = np.zeros(size + 1, bool)
    seen[0] = True
    for _ in range(int(size).bit_length()):
        seen[jump[seen]] = True
        jump = jump[jump]
    stepped = np.flatnonzero(seen[:size] & (best >= 0))
    return best[stepped]
