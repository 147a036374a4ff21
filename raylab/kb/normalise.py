"""How a surface is read, the same for an alias at build time and for a caption: folded letters, tokens, gaps, case.

Folding (compatibility decomposition, marks off, full case folding: ``Ærøskøbing`` -> ``aeroskobing``) happens inside
the hash, a letter at a time, so positions in the original text survive. Everything between tokens leaves the hash:
``Coca-Cola``, ``coca cola`` and ``#CocaCola`` are one surface. What the gaps were is kept apart, to tell ``may be``
from ``Maybe``.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.kb.hashing import BASE, mix, open_array, powers, prefix_sums, random_values

WORD, SINGLE, SPACE, UPPER, LOWER, DIGIT, APOSTROPHE, HARD = (1 << bit for bit in range(8))
"""Classes of a character: in a word, a token of its own, white space, two cases, digit, joins words, ends a phrase."""

_LAST = 0x32FFF  # the last code point with an entry of its own; what lies above are tags and private use
_APOSTROPHES = "'\u2019\u02bc`"
_HARD = '\n\r\t|;"\u2022\u201c\u201d\u00ab\u00bb\u2026'
_SYMBOLS = "&+#"  # they tell names apart: AT&T, C++, C#
_FOLD_EXTRA = {
    "ø": "o",
    "ł": "l",
    "đ": "d",
    "ð": "d",
    "þ": "th",
    "ħ": "h",
    "ŧ": "t",
    "ı": "i",
    "æ": "ae",
    "œ": "oe",
    "&": "and",
}
_UNSPACED = ((0x2E80, 0x2FDF), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, _LAST))
_CHUNK_CHARS = 1 << 17  # what is worked on at once: the arrays stay in the cache

PHRASE_TOKENS = 8
"""The most tokens of an n-gram; a gap pattern counts to eight as well."""


def fold(text: str) -> str:
    """Return the letters that the hash sees for `text`, without its gaps."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(_FOLD_EXTRA.get(letter, letter) for letter in plain)
    return "".join(letter for letter in letters if letter in _SYMBOLS or _is_letter(unicodedata.category(letter)))


def _is_letter(category: str) -> bool:
    """Tell if characters of a Unicode category count: letters, numbers, pictures."""
    return category[0] in "LN" or category == "So"


def _kind(letter: str) -> int:
    """Return the class bits of one character."""
    if letter in _APOSTROPHES:
        return APOSTROPHE
    category = unicodedata.category(letter)
    kind = (HARD if letter in _HARD else 0) | (SPACE if letter.isspace() else 0)
    if category == "So" or letter in _SYMBOLS:
        kind |= WORD | SINGLE
    elif _is_letter(category) or category[0] == "M":
        kind |= WORD
    kind |= UPPER if category in ("Lu", "Lt") else LOWER if category == "Ll" else 0
    return kind | (DIGIT if category[0] == "N" else 0)


@dataclass(frozen=True)
class Folding:
    """The character tables, frozen into a knowledge base so that no later Unicode version can change its keys."""

    kind: np.ndarray
    """uint8 [0x33000]: class bits of each code point."""
    step: np.ndarray
    """uint8 [0x33000]: letters that it folds to; 0 for marks and gaps."""
    value: np.ndarray
    """uint64 [0x33000]: its part of the hash polynomial."""

    @classmethod
    @functools.cache
    def make(cls) -> Folding:
        """Compute the tables from Python's Unicode database, once a process (a third of a second)."""
        code = np.arange(_LAST + 1)
        kind, step = np.zeros(len(code), np.uint8), np.zeros(len(code), np.uint8)
        value = np.zeros(len(code), np.uint64)
        spans = [*_UNSPACED, (0xAC00, 0xD7A3)]  # ideographs, kana, Hangul: each stands for itself
        for first, last in spans:
            kind[first : last + 1] = WORD | (SINGLE if first != 0xAC00 else 0)
            step[first : last + 1], value[first : last + 1] = 1, random_values(code[first : last + 1])
        alone = np.ones(len(code), bool)
        for first, last in spans:
            alone[first : last + 1] = False
        alone[0xD800:0xF900] = False  # surrogates and private use
        for number in np.flatnonzero(alone).tolist():
            letter = chr(number)
            if unicodedata.category(letter) == "Cn":
                continue
            kind[number] = _kind(letter)
            if kind[number] & WORD:
                step[number], value[number] = _polynomial(letter)
        return cls(kind, step, value)

    @classmethod
    def open(cls, folder: Path) -> Folding:
        """Map the tables saved in `folder`."""
        return cls(*(open_array(folder / f"fold_{name}.npy") for name in ("kind", "step", "value")))

    def save(self, folder: Path) -> None:
        """Write the tables into `folder` as ``fold_*.npy``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("kind", "step", "value"):
            np.save(folder / f"fold_{name}.npy", getattr(self, name))


def _polynomial(letter: str) -> tuple[int, int]:
    folded = fold(letter)
    values = random_values(np.array([ord(x) for x in folded], np.int64)).tolist()
    return len(folded), sum(v * pow(BASE, j, 2**64) for j, v in enumerate(values)) % 2**64


@dataclass(frozen=True)
class Tokens:
    """The tokens of some texts, in order: one entry a token; positions count characters of the joined texts."""

    text: np.ndarray
    """int32: the text's number in its chunk."""
    start: np.ndarray
    end: np.ndarray
    """int64: character positions in the joined texts of the chunk."""
    phrase: np.ndarray
    """int32: rises at each text and at each hard break; a name does not cross it."""
    spaces: np.ndarray
    """int32: rises at each gap that holds white space."""
    tagged: np.ndarray
    """bool: part of a #hashtag or @handle, where words are glued."""
    can_start: np.ndarray
    can_end: np.ndarray
    """bool: false beside an apostrophe within a word (``Don`` in ``Don't``); a possessive s may follow a name."""
    letters: np.ndarray
    """int64 [2, tokens]: folded letters of the joined texts before the token and up to its end; likewise below."""
    hashes: np.ndarray
    """uint64 [2, tokens]: prefix sums of the hash polynomial."""
    upper: np.ndarray
    lower: np.ndarray
    digits: np.ndarray
    """int32 [2, tokens]: prefix sums of character counts."""

    def __len__(self) -> int:
        return len(self.text)

    def hash(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return the hash of each run of tokens from `first` to `last` (inclusive), uint64."""
        before = self.letters[0][first]
        inverse = powers(int(self.letters[1][-1]) + 1)[1] if len(self) else np.ones(1, np.uint64)
        return mix((self.hashes[1][last] - self.hashes[0][first]) * inverse[before])

    def gap_pattern(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return the counts of words that each run may be read as, uint8: bit k - 1 stands for k words.

        A gap without white space may be none: ``Coca-Cola`` is one word or two. A hashtag may be any number.
        """
        most = np.minimum(last - first + 1, 8)
        least = np.minimum(self.spaces[last] - self.spaces[first] + 1, 8)
        pattern = ((1 << most) - 1) & ~((1 << (least - 1)) - 1)
        return np.where(self.tagged[first] & self.tagged[last], 0xFF, pattern).astype(np.uint8)


@dataclass(frozen=True)
class Chunk:
    """Some texts of a batch, read."""

    first: int
    """The number of the first text in the batch."""
    starts: np.ndarray
    """int64 [texts + 1]: where each text starts in the joined characters."""
    tokens: Tokens
    upper: np.ndarray
    lower: np.ndarray
    """int64 [texts]: counts of upper- and lower-case letters."""


def as_strings(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return `texts` as one Arrow string array, nulls as empty strings."""
    if isinstance(texts, pa.ChunkedArray):
        texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], pa.string())
    if texts.type != pa.large_string():
        texts = texts.cast(pa.large_string())
    return pc.fill_null(texts, "") if texts.null_count else texts


def read(texts: pa.Array | pa.ChunkedArray, folding: Folding) -> Iterator[Chunk]:
    """Read `texts` in chunks of about 130,000 characters; a text is never cut.

    Yields:
        `Chunk`s in order.
    """
    texts = as_strings(texts)
    if not len(texts):
        return
    lengths = prefix_sums(pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.int64))
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = memoryview(texts.buffers()[2] or b"")
    first = 0
    while first < len(texts):
        stop = max(first + 1, int(np.searchsorted(lengths, lengths[first] + _CHUNK_CHARS, "right")) - 1)
        starts = lengths[first : stop + 1] - lengths[first]
        code = _code_points(data[offsets[first] : offsets[stop]], int(starts[-1]))
        yield _read_chunk(first, starts, code, folding)
        first = stop


def _code_points(data: memoryview, characters: int) -> np.ndarray:
    """Decode UTF-8 into code points, int64, those beyond the tables as the last entry."""
    if len(data) == characters:
        return np.frombuffer(data, np.uint8).astype(np.int64)
    wide = np.frombuffer(str(data, "utf-8").encode("utf-32-le"), np.uint32)
    return np.minimum(wide.astype(np.int64), _LAST)


@dataclass(frozen=True)
class _Characters:
    """The characters of some joined texts."""

    starts: np.ndarray
    """int64 [texts + 1]: where each text starts."""
    code: np.ndarray
    """int64 [characters]: code points."""
    kind: np.ndarray
    """uint8 [characters]: class bits."""

    def are(self, bits: int) -> np.ndarray:
        """Tell which characters are of a class, bool."""
        return (self.kind & bits) > 0

    def counts(self, bits: int) -> np.ndarray:
        """Return the running count of a class, int32 [characters + 1]."""
        return prefix_sums(self.are(bits).astype(np.int32))

    def at(self, position: np.ndarray) -> np.ndarray:
        """Return the code points at some positions; the last one for a position beyond."""
        return self.code[np.minimum(position, len(self.code) - 1)]


def _read_chunk(first: int, starts: np.ndarray, code: np.ndarray, folding: Folding) -> Chunk:
    characters = _Characters(starts, code, folding.kind[code])
    opens = _token_starts(characters)
    word = characters.are(WORD)
    closes = word.copy()
    closes[:-1] &= ~word[1:] | opens[1:]
    upper, lower = characters.counts(UPPER), characters.counts(LOWER)
    step = prefix_sums(folding.step[code].astype(np.int64))
    sums = prefix_sums(folding.value[code] * powers(int(step[-1]) + 1)[0][step[:-1]])
    start, end = np.flatnonzero(opens), np.flatnonzero(closes) + 1
    keep = step[end] > step[start]  # a stray combining mark is no token
    start, end = start[keep], end[keep]
    text = (np.searchsorted(starts, start, "right") - 1).astype(np.int32)
    running = {"letters": step, "hashes": sums, "upper": upper, "lower": lower, "digits": characters.counts(DIGIT)}
    tokens = Tokens(
        text=text,
        start=start,
        end=end,
        tagged=_tagged(characters, start, end),
        **_gaps(characters, text, start, end),
        **{name: np.stack([counts[start], counts[end]]) for name, counts in running.items()},
    )
    return Chunk(first, starts, tokens, np.diff(upper[starts]), np.diff(lower[starts]))


def _token_starts(characters: _Characters) -> np.ndarray:
    """Mark the first character of every token: after a gap, beside a symbol, at humps inside a hashtag."""
    word, single = characters.are(WORD), characters.are(SINGLE)
    code, edges = characters.code, characters.starts[:-1]
    opens = word.copy()
    opens[1:] &= ~word[:-1] | single[1:] | single[:-1]
    edges = edges[edges < len(code)]
    opens[edges] = word[edges]
    tag = np.flatnonzero((code[:-1] == ord("#")) | (code[:-1] == ord("@")))
    if tag.size:
        opens |= _humps(characters, opens, tag)
    return opens


def _humps(characters: _Characters, opens: np.ndarray, tag: np.ndarray) -> np.ndarray:
    """Mark the humps of ``#VisitNewYork`` and ``#NYCMarathon``, in tagged words alone."""
    upper, lower = characters.are(UPPER), characters.are(LOWER)
    hump = np.zeros(len(upper), bool)
    hump[1:] = lower[:-1] & upper[1:]
    hump[1:-1] |= upper[:-2] & upper[1:-1] & lower[2:]
    run = np.cumsum(opens)
    tagged = np.zeros(int(run[-1]) + 1, bool)
    tagged[run[tag + 1][opens[tag + 1]]] = True
    return hump & tagged[run]


def _tagged(characters: _Characters, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Tell which tokens belong to a #hashtag or @handle, bool."""
    before = characters.code[np.maximum(start - 1, 0)]
    tagged = (start > 0) & ((before == ord("#")) | (before == ord("@")))
    glued = np.zeros(len(start), bool)
    glued[1:] = (start[1:] == end[:-1]) & ~characters.are(SINGLE)[start[1:]] & ~tagged[1:]
    return tagged[np.maximum.accumulate(np.where(glued, 0, np.arange(len(start))))]


def _gaps(characters: _Characters, text: np.ndarray, start: np.ndarray, end: np.ndarray) -> dict[str, np.ndarray]:
    """Describe the gap before each token: a new phrase, white space, or an apostrophe within a word."""
    size = len(text)
    new, spaced, joined = np.ones(size, bool), np.ones(size, bool), np.zeros(size, bool)
    can_start, can_end = np.ones(size, bool), np.ones(size, bool)
    if size > 1:
        last, here = end[:-1], start[1:]
        same = text[1:] == text[:-1]
        space, hard, length = characters.counts(SPACE), characters.counts(HARD), last - start[:-1]
        dot = characters.at(last) == ord(".")
        has_space = space[here] > space[last]
        initial = dot & (length == 1) & (here - last == 2)  # J. K. Rowling
        sentence = dot & has_space & (length > 4)  # but: St. Louis, Mass. Avenue
        new[1:] = ~same | (hard[here] > hard[last]) | sentence
        spaced[1:] = new[1:] | (has_space & ~initial)
        joined[1:] = same & (here - last == 1) & characters.are(APOSTROPHE)[np.minimum(last, len(characters.code) - 1)]
        possessive = (characters.at(here) | 32 == ord("s")) & (end[1:] - here == 1)
        elided = characters.at(start[:-1]) | 32
        elision = (length == 1) & ((elided == ord("d")) | (elided == ord("l")))
        can_start[1:] = ~joined[1:] | elision
        can_end[:-1] = ~joined[1:] | possessive
    return {
        "phrase": np.cumsum(new, dtype=np.int32),
        "spaces": np.cumsum(spaced, dtype=np.int32),
        "can_start": can_start,
        "can_end": can_end,
    }
