"""How the index of close names is computed: see `close` for what lies where."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.kb.catalog import Catalog
from raylab.kb.hashing import prefix_sums

logger = logging.getLogger(__name__)

ARRAYS = ("letters", "starts", "aliases", "bounds", "indptr", "postings")
LEAST_LETTERS, MOST_LETTERS = 4, 80
"""Shorter names are like too many others, longer ones are no names."""
_TAIL = r"\s*\([^()]*\)\s*$"
"""How Wikipedia tells titles apart: "(planet)"; `owners` makes a name of what stands before it."""
_TRIPLES = 1 << 18
_ROWS = 1 << 16
_BLOCK = 1 << 22  # bytes of text worked on at once


def _codes() -> np.ndarray:
    """Return six bits for each byte of UTF-8: letters and figures of ASCII have their own, the rest share 27."""
    codes = (37 + np.arange(256) % 27).astype(np.uint32)
    codes[ord(" ")] = 0
    codes[ord("a") : ord("z") + 1] = np.arange(1, 27)
    codes[ord("0") : ord("9") + 1] = np.arange(27, 37)
    return codes


_CODES = _codes()


def plain(names: pa.Array) -> pa.Array:
    """Fold names for comparison: lower case, accents and apostrophes off, one space for everything between words."""
    text = pc.utf8_lower(pc.utf8_normalize(names, form="NFKD"))
    text = pc.replace_substring_regex(text, r"[\x{300}-\x{36f}\x{1ab0}-\x{1aff}\x{20d0}-\x{20ff}'’ʼ`]+", "")
    return pc.utf8_trim(pc.replace_substring_regex(text, r"[^\p{L}\p{M}\p{N}&+#]+", " "), " ")


def triples(data: np.ndarray) -> np.ndarray:
    """Return the triples of one text's bytes, a space at either end, uint32 [bytes]."""
    codes = np.zeros(len(data) + 2, np.uint32)
    codes[1:-1] = _CODES[data]
    return (codes[:-2] << 12) | (codes[1:-1] << 6) | codes[2:]


def write(place: Path, expected: dict[str, object], catalog: Catalog) -> None:
    """Write the index into a folder beside its own, then put it in place."""
    started = time.monotonic()
    part = place.with_name(f"{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        texts, aliases = _surfaces(catalog)
        sizes = pc.utf8_length(texts).to_numpy()
        starts = np.frombuffer(texts.buffers()[1], np.int64)[: len(texts) + 1]
        letters = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[: starts[-1]]
        bounds = np.searchsorted(sizes, np.arange(MOST_LETTERS + 2))
        arrays: dict[str, np.ndarray] = {"letters": letters, "starts": starts, "aliases": aliases, "bounds": bounds}
        arrays |= _postings(letters, starts)
        for name, array in arrays.items():
            np.save(part / f"{name}.npy", array)
        (part / "close.json").write_text(json.dumps(expected) + "\n", "utf-8")
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    logger.info("close names: %d surfaces indexed in %.1f s", len(aliases), time.monotonic() - started)


def _surfaces(catalog: Catalog) -> tuple[pa.Array, np.ndarray]:
    """Return the folded text of every surface (large_string), shortest first, and its alias number (uint32)."""
    texts, aliases = [pa.array([], pa.large_string())], [np.zeros(0, np.int64)]
    entities = catalog.entities.select(["title", "aliases"])
    for start in range(0, len(catalog), _ROWS):
        part = entities.slice(start, _ROWS).combine_chunks()
        titles = pa.concat_arrays(part["title"].chunks)
        others = [pc.list_flatten(chunk) for chunk in part["aliases"].chunks]
        names = pa.concat_arrays([titles, pc.replace_substring_regex(titles, _TAIL, ""), *others])
        number = catalog.aliases.lookup(names)
        folded = plain(names)
        size = pc.utf8_length(folded).to_numpy(zero_copy_only=False)
        fits = (number >= 0) & (size >= LEAST_LETTERS) & (size <= MOST_LETTERS)
        number, folded = number[fits], folded.filter(pa.array(fits))
        number, first = np.unique(number, return_index=True)
        texts.append(folded.take(pa.array(first)).cast(pa.large_string()))
        aliases.append(number)
    number, first = np.unique(np.concatenate(aliases), return_index=True)
    text = pa.concat_arrays(texts).take(pa.array(first))
    order = np.argsort(pc.utf8_length(text).to_numpy(zero_copy_only=False), kind="stable")
    return text.take(pa.array(order)), number[order].astype(np.uint32)


def _postings(letters: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Invert the triples of all surfaces: count, then put each surface's number into its triples' places."""
    counts = np.zeros(_TRIPLES, np.int64)
    for _, triples, _ in _blocks(letters, starts):
        counts += np.bincount(triples, minlength=_TRIPLES)
    indptr = prefix_sums(counts)
    postings = np.empty(int(indptr[-1]), np.uint32)
    free = indptr[:-1].copy()
    for first, triples, owner in _blocks(letters, starts):
        keys = np.sort((triples.astype(np.uint64) << np.uint64(32)) | owner.astype(np.uint64))
        triple = (keys >> np.uint64(32)).astype(np.int64)
        mine = np.bincount(triple, minlength=_TRIPLES)
        rank = np.arange(len(keys)) - prefix_sums(mine)[triple]
        postings[free[triple] + rank] = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32) + np.uint32(first)
        free += mine
    return {"indptr": indptr, "postings": postings}


def _blocks(letters: np.ndarray, starts: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the triples of some surfaces at a time: the first surface's number, each triple, its surface from there."""
    first = 0
    while first < len(starts) - 1:
        stop = max(first + 1, int(np.searchsorted(starts, starts[first] + _BLOCK, "right")) - 1)
        offsets = (starts[first : stop + 1] - starts[first]).astype(np.int64)
        sizes = np.diff(offsets)
        # a space before each surface, and one behind the last: where one ends, the next one's space serves for both
        codes = np.zeros(int(offsets[-1]) + len(sizes) + 1, np.uint32)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        at = np.arange(int(offsets[-1])) + owner + 1
        codes[at] = _CODES[letters[starts[first] : starts[stop]]]
        yield first, (codes[at - 1] << 12) | (codes[at] << 6) | codes[at + 1], owner
        first = stop
