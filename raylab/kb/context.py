"""Compact text vectors of entities and captions in one space: what tells one bearer of a name from another.

MOFI disambiguates with entity vectors from a graph embedding of Wikipedia (MOFI section 1.3); that graph is not in a
catalogue, so the vectors here come from the catalogue's own text (our choice): latent semantic analysis of title,
description, summary and types. A caption is embedded by the same word vectors, which puts "Kerry meets with Philippine
President Duterte" nearer to "American politician" than to "county in Ireland". What such a smooth space blurs, the
rarest words of an entity's description keep. An entity costs 50 bytes, whatever its text: 305 MB for the 6.1 million
of English Wikipedia, mapped once a node.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylab.errors import RaylabError
from raylab.kb.kinds import kinds_of

DIMS = 32
"""Components of a vector (our choice: 64 link no better and cost twice the time)."""
KEYWORDS = 8
"""The rarest words of an entity's description and summary that are kept as they are."""
MAX_WORDS = 60_000
"""Words that have a vector: 8 MB in all; below 2^16 - 1, so that a word's number takes two bytes."""
NO_WORD = np.uint16(2**16 - 1)
"""Fills up the keywords of an entity with a short description."""
MIN_WORD_ENTITIES = 3
"""A word is learned from at least this many entities of the sample, so that names and typos do not fill the table."""
ENTITIES_PER_DIM = 8
"""A small knowledge base gets fewer dimensions, or each entity would have one to itself and be like no other."""
SMALL_SAMPLE = 10_000
"""Samples up to this size have room for every word."""
SUMMARY_CHARS = 240
"""The first sentence or two of a summary define; the rest tells stories."""
MAX_TYPES = 12
"""The nearest types say more than the far ends of the subclass chain."""
TYPE_WEIGHT = 0.3
"""Of a type against a word. At 1 every German classicist is the same; at 0 the space forgets what it knows of kinds."""
INT8_SCALE = 127.0
"""Steps of a component of 1; the rounding turns a vector by less than a degree."""

RECORD = np.dtype([("vector", np.int8, DIMS), ("keywords", np.uint16, KEYWORDS), ("kind", np.uint16)])
"""All that disambiguation needs of an entity, in one place: one page fault an entity."""

_ARRAYS = ("keys", "idf", "vectors", "commonness", "mean")
_FORMAT = 1
_MAX_WORD_BYTES = 32


@dataclass(frozen=True)
class Tokens:
    """Words of a batch of texts, in reading order."""

    row: NDArray[np.int64]
    """The text's number, ascending, [tokens]."""
    key: NDArray[np.uint64]
    """A 64-bit hash of the lower-cased word, [tokens]."""
    lower: NDArray[np.bool_]
    """The word starts with a small letter of the Latin alphabet, [tokens]."""


def tokens(texts: pa.Array | pa.ChunkedArray) -> Tokens:
    """Split texts into lower-cased words of letters and digits; every non-ASCII byte counts as a letter.

    Offsets are not needed here, so this works on the UTF-8 bytes as they lie in the Arrow buffer, without a Python
    string or a copy of the text.

    Args:
        texts: strings; null counts as empty.
    """
    codes, offsets = _utf8(texts)
    kind, values, multipliers = _byte_tables()
    is_word = np.zeros(len(codes) + 2, bool)  # with an end before the first byte and behind the last
    is_word[1:-1] = kind[codes]
    opens = is_word[1:] & ~is_word[:-1]
    closes = is_word[:-1] & ~is_word[1:]
    edges = offsets[1:-1]  # one text's last word never goes on in the next text
    opens[edges] |= is_word[edges + 1]
    closes[edges] |= is_word[edges]
    starts, ends = np.flatnonzero(opens), np.flatnonzero(closes)
    if len(starts) == 0:
        return Tokens(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, bool))
    first = np.append(0, np.cumsum(ends - starts))
    place = np.arange(first[-1]) - np.repeat(first[:-1], ends - starts)
    letters = values[codes[is_word[1:-1]]] * multipliers[np.minimum(place, _MAX_WORD_BYTES - 1)]
    key = np.add.reduceat(letters, first[:-1])
    row = np.searchsorted(offsets, starts, side="right") - 1
    initial = codes[starts]
    return Tokens(row, key, (initial >= ord("a")) & (initial <= ord("z")))


def _utf8(texts: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the bytes of all texts end to end and the n + 1 offsets into them."""
    array = pc.fill_null(texts, "").cast(pa.large_string())
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    codes = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
    return codes[offsets[0] : offsets[-1]], offsets - offsets[0]


@cache
def _byte_tables() -> tuple[NDArray[np.bool_], NDArray[np.uint64], NDArray[np.uint64]]:
    """Return for each byte whether it is part of a word and its random value, and a random odd factor a place."""
    random = np.random.Generator(np.random.PCG64(20_240_501))  # fixed: keys are stored in knowledge bases
    values = random.integers(1, 2**64 - 1, 256, dtype=np.uint64)
    values[ord("A") : ord("Z") + 1] = values[ord("a") : ord("z") + 1]
    is_word = np.array([byte >= 0x80 or chr(byte).isalnum() for byte in range(256)])
    factors = random.integers(1, 2**63 - 1, _MAX_WORD_BYTES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return is_word, values, factors


@dataclass(frozen=True)
class Words:
    """Words of a batch of texts that a `ContextSpace` has vectors of."""

    texts: int
    """How many texts there are."""
    row: NDArray[np.int64]
    """The text's number, ascending, [words]."""
    word: NDArray[np.int64]
    """The word's number in the space, [words]."""


@dataclass(frozen=True, eq=False)
class ContextSpace:
    """Word vectors and, once a knowledge base is built, the records of its entities."""

    keys: NDArray[np.uint64]
    """[words], ascending: the hashes of the words that have a vector."""
    idf: NDArray[np.float32]
    """[words]: ln(entities / entities with the word) in the sample."""
    vectors: NDArray[np.float32]
    """[words, DIMS], weighted by idf: a text is the sum of its words."""
    commonness: NDArray[np.float32]
    """[words]: how often the word starts with a small letter in definitions, 0..1: "stock" and "candy" are words before
    they are surnames, "paris" is not."""
    mean: NDArray[np.float32]
    """[DIMS]: the mean of the sample's unit vectors, taken off so that unrelated entities score near 0."""
    entities: NDArray[np.void] = field(default_factory=lambda: np.empty(0, RECORD))
    """`RECORD` [entities], memory-mapped; empty before the build wrote it."""

    @classmethod
    def fit(cls, sample: pa.Table, seed: int = 0) -> ContextSpace:
        """Learn word vectors from a sample of the knowledge base's own entities.

        Latent semantic analysis: a truncated SVD of the row-normalised tf-idf matrix of entities and words. The sample
        should be drawn evenly; 200,000 entities are plenty and take some 10 s.

        Args:
            sample: `ENTITY` rows, at least one.
            seed: of the randomised SVD, so that a knowledge base builds the same twice.
        """
        import scipy.sparse as sp
        from sklearn.utils.extmath import randomized_svd

        words, types = tokens(_texts(sample)), tokens(_type_texts(sample))
        row, key = np.concatenate([words.row, types.row]), np.concatenate([words.key, types.key])
        weight = np.repeat(np.array([1, TYPE_WEIGHT], np.float32), [len(words.row), len(types.row)])
        keys, number, counts = _vocabulary(row, key, sample.num_rows)
        known = number >= 0
        shape = (sample.num_rows, len(keys))
        matrix = sp.csr_matrix((weight[known], (row[known], number[known])), shape)
        idf = np.log((1 + sample.num_rows) / (1 + counts)).astype(np.float32)
        matrix = matrix.multiply(idf[None, :]).tocsr()
        norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
        matrix = sp.diags_array((1 / np.maximum(norms, 1e-9)).astype(np.float32)) @ matrix
        axes = np.zeros((DIMS, len(keys)), np.float32)
        if rank := min(DIMS, max(8, sample.num_rows // ENTITIES_PER_DIM), *shape):
            axes[:rank] = randomized_svd(matrix, rank, n_iter=4, random_state=seed)[2]
        vectors = np.ascontiguousarray(axes.T * idf[:, None], np.float32)
        mean = _unit(matrix @ axes.T).mean(0).astype(np.float32)
        return cls(keys, idf, vectors, _commonness(keys, tokens(_definitions(sample))), mean)

    def encode_entities(self, batch: pa.Table | pa.RecordBatch) -> NDArray[np.void]:
        """Return the `RECORD` of each `ENTITY` row, shape [rows]."""
        records = np.zeros(batch.num_rows, RECORD)
        types = self.sums(self.words(_type_texts(batch)))
        sums = self.sums(self.words(_texts(batch))) + np.float32(TYPE_WEIGHT) * types
        records["vector"] = np.rint(self.centre(sums) * INT8_SCALE)
        records["keywords"] = self._keywords(_definitions(batch))
        records["kind"] = kinds_of(batch["types"])
        return records

    def sums(self, words: Words) -> NDArray[np.float32]:
        """Return the sum of the word vectors of each text, float32 [texts, DIMS], not normalised."""
        import scipy.sparse as sp

        begin = np.searchsorted(words.row, np.arange(words.texts + 1))
        counts = sp.csr_array((np.ones(len(words.row), np.float32), words.word, begin), (words.texts, len(self.keys)))
        return counts @ self.vectors

    def centre(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return unit vectors for sums of word vectors: normalised, less the mean entity; 0 where there was no word.

        Two texts that have nothing in common score near 0 and not near the likeness of any two entities.
        """
        unit = _unit(sums)
        return np.where(np.any(sums, axis=-1, keepdims=True), _unit(unit - self.mean), np.float32(0))

    def words(self, texts: pa.Array | pa.ChunkedArray) -> Words:
        """Return every word of the texts that has a vector, in reading order."""
        return self.known(tokens(texts), len(texts))

    def known(self, words: Tokens, texts: int) -> Words:
        """Return those of the texts' words that have a vector."""
        number = self._number(words.key)
        has = number >= 0
        return Words(texts, words.row[has], number[has])

    def common(self, words: Tokens, texts: int) -> NDArray[np.float32]:
        """Return `commonness` of the only word of each text, float32 [texts]; 0 for other texts and unknown words.

        Args:
            words: the texts' words.
            texts: how many texts there are.
        """
        single = np.bincount(words.row, minlength=texts)[words.row] == 1
        number = self._number(words.key[single])
        common = np.zeros(texts, np.float32)
        common[words.row[single]] = np.where(number >= 0, self.commonness[number], 0)
        return common

    def _number(self, key: NDArray[np.uint64]) -> NDArray[np.int64]:
        if not len(self.keys):
            return np.full(len(key), -1, np.int64)
        at = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        return np.where(self.keys[at] == key, at, -1)

    def _keywords(self, texts: pa.Array) -> NDArray[np.uint16]:
        words = self.words(texts)
        pairs = np.unique(words.row * (MAX_WORDS + 1) + words.word)  # a word counts once a text
        row, word = np.divmod(pairs, MAX_WORDS + 1)
        order = np.lexsort((-self.idf[word], row))
        row, word = row[order], word[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        kept = place < KEYWORDS
        keywords = np.full((len(texts), KEYWORDS), NO_WORD, np.uint16)
        keywords[row[kept], place[kept]] = word[kept]
        return keywords

    def save(self, folder: Path | str) -> None:
        """Write the word vectors into `folder`, which must exist."""
        folder = Path(folder)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "context.json").write_text(json.dumps({"format": _FORMAT, "dims": DIMS, "words": len(self.keys)}))

    @staticmethod
    def create_entities(folder: Path | str, count: int) -> np.memmap:
        """Make the file of entity records and return it mapped for writing: fill it in row order, then `flush()`."""
        return np.lib.format.open_memmap(Path(folder) / "entities.npy", mode="w+", dtype=RECORD, shape=(count,))

    @classmethod
    def open(cls, folder: Path | str) -> ContextSpace:
        """Open a saved space, everything memory-mapped.

        Raises:
            RaylabError: a file is missing, damaged or of another format.
        """
        folder = Path(folder)
        try:
            meta = json.loads((folder / "context.json").read_text())
            if meta.get("format") != _FORMAT or meta.get("dims") != DIMS:
                raise RaylabError(f"{folder}: context vectors of another raylab ({meta}): build the KB again.")
            names = (*_ARRAYS, "entities")
            return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))
        except (OSError, ValueError) as error:
            raise RaylabError(f"{folder}: the context vectors cannot be read ({error}): build the KB again.") from error


def _definitions(entities: pa.Table | pa.RecordBatch) -> pa.Array:
    """Description and head of the summary: what the name does not say."""
    description, summary = (_strings(entities, name) for name in ("description", "summary"))
    return _join(description, pc.utf8_slice_codeunits(summary, 0, SUMMARY_CHARS))


def _texts(entities: pa.Table | pa.RecordBatch) -> pa.Array:
    return _join(_strings(entities, "title"), _definitions(entities))


def _type_texts(entities: pa.Table | pa.RecordBatch) -> pa.Array:
    types = entities["types"].cast(pa.list_(pa.string()))
    types = types.combine_chunks() if isinstance(types, pa.ChunkedArray) else types
    return pc.binary_join(pc.list_slice(types, 0, MAX_TYPES), " ")


def _strings(entities: pa.Table | pa.RecordBatch, name: str) -> pa.Array:
    column = entities[name].cast(pa.string())
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _join(*parts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(*parts, " ", null_handling="replace", null_replacement="")


def _commonness(keys: NDArray[np.uint64], words: Tokens) -> NDArray[np.float32]:
    """Return the share of small initials of each word, smoothed: a word seen once says little."""
    at = np.minimum(np.searchsorted(keys, words.key), max(len(keys) - 1, 0))
    known = keys[at] == words.key if len(keys) else np.zeros(len(at), bool)
    total = np.bincount(at[known], minlength=len(keys))
    small = np.bincount(at[known], words.lower[known], minlength=len(keys))
    return (small / (total + 1)).astype(np.float32)


def _vocabulary(
    row: NDArray[np.int64], key: NDArray[np.uint64], texts: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the kept words' keys (ascending), each token's word number (-1: not kept), texts that hold each word."""
    keys, number = np.unique(key, return_inverse=True)
    counts = np.bincount(np.unique(number * texts + row) // texts, minlength=len(keys))
    enough = counts >= (1 if texts <= SMALL_SAMPLE else MIN_WORD_ENTITIES)
    if enough.sum() > MAX_WORDS:
        enough &= counts >= np.partition(counts, -MAX_WORDS)[-MAX_WORDS]
        enough[np.flatnonzero(enough)[MAX_WORDS:]] = False
    renumbered = np.where(enough, np.cumsum(enough) - 1, -1)
    return keys[enough], renumbered[number], counts[enough]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
