"""64-bit hashes of strings, and the sorted index that finds them: all of it numpy over whole batches.

A string's hash is a polynomial in its letters, so the hash of every n-gram of a text comes from two prefix sums:
``hash(s) = sum_j value(s_j) * BASE**j  (mod 2**64)``, then mixed. Values are random 64-bit numbers.

Strings are not stored beside their hashes. With 20 million keys, a surface that is in no catalogue is taken for one of
them with probability 20e6 / 2**64 = 1.1e-12, and any two keys of the whole set share a hash with probability 1.1e-5.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

BASE = 0x9E3779B97F4A7C15 | 1
"""The polynomial's base: odd, so that it has an inverse modulo 2**64."""
_INVERSE = pow(BASE, -1, 2**64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)


def random_values(numbers: np.ndarray) -> np.ndarray:
    """Return a fixed random uint64 for each integer (SplitMix64, Steele et al. 2014)."""
    z = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@functools.lru_cache(maxsize=1)
def _powers_up_to(bits: int) -> tuple[np.ndarray, np.ndarray]:
    both = []
    for factor in (BASE, _INVERSE):
        terms = np.full(1 << bits, factor, np.uint64)
        terms[0] = 1
        both.append(np.cumprod(terms))
    return both[0], both[1]


def powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two uint64 arrays of at least `count` entries: ``BASE**j`` and ``BASE**-j``."""
    return _powers_up_to(max(18, int(count).bit_length()))


def prefix_sums(values: np.ndarray) -> np.ndarray:
    """Return the running sums of `values`, [n + 1], starting with 0, in their own type (uint64 wraps)."""
    sums = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=sums[1:])
    return sums


def mix(polynomial: np.ndarray) -> np.ndarray:
    """Spread a polynomial over all 64 bits, so that the leading ones can choose a bucket."""
    mixed = polynomial ^ (polynomial >> np.uint64(32))
    mixed *= _MIX
    mixed ^= mixed >> np.uint64(29)
    return mixed


_BYTE_VALUES = random_values(np.arange(256) + 2**40)


def hash_strings(strings: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return the hash of each string's UTF-8 bytes, uint64 [n]; nothing is folded. Used for ids."""
    if isinstance(strings, pa.ChunkedArray):
        strings = pa.concat_arrays(strings.chunks) if strings.num_chunks else pa.array([], pa.string())
    if len(strings) == 0:
        return np.zeros(0, np.uint64)
    strings = strings.cast(pa.large_string())
    offsets = np.frombuffer(strings.buffers()[1], np.int64)[strings.offset : strings.offset + len(strings) + 1]
    raw = np.frombuffer(strings.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    forward, backward = powers(len(raw) + 1)
    sums = prefix_sums(_BYTE_VALUES[raw] * forward[: len(raw)])
    start, end = offsets[:-1] - offsets[0], offsets[1:] - offsets[0]
    return mix((sums[end] - sums[start]) * backward[start])


def open_array(path: Path) -> np.ndarray:
    """Map a ``.npy`` file read-only: one copy for all processes of a node."""
    return np.load(path, mmap_mode="r").view(np.ndarray)


@dataclass(frozen=True)
class HashIndex:
    """A sorted array of distinct hashes, found through buckets of their leading bits: a hash's number is its rank."""

    keys: np.ndarray
    """uint64 [n], ascending, distinct."""
    buckets: np.ndarray
    """uint32 [2**b + 1]: where each bucket starts in `keys`; one or two keys a bucket."""

    @classmethod
    def of(cls, keys: np.ndarray) -> HashIndex:
        """Index `keys` (uint64 [n], ascending and distinct)."""
        bits = max(1, len(keys).bit_length() - 1)
        counts = np.bincount((keys >> np.uint64(64 - bits)).astype(np.int64), minlength=1 << bits)
        return cls(keys, prefix_sums(counts).astype(np.uint32))

    @classmethod
    def open(cls, folder: Path) -> HashIndex:
        """Map the index saved in `folder`."""
        return cls(open_array(folder / "keys.npy"), open_array(folder / "buckets.npy"))

    def save(self, folder: Path) -> None:
        """Write ``keys.npy`` and ``buckets.npy`` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "keys.npy", self.keys)
        np.save(folder / "buckets.npy", self.buckets)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Return the number of each hash, int64 [n], -1 where it is unknown."""
        bits = (len(self.buckets) - 1).bit_length() - 1
        bucket = (hashes >> np.uint64(64 - bits)).astype(np.int64)
        at = self.buckets[bucket].astype(np.int64)
        stop = self.buckets[bucket + 1]
        found = np.full(len(hashes), -1, np.int64)
        left = np.flatnonzero(at < stop)
        at, stop, wanted = at[left], stop[left], hashes[left]
        while left.size:
            key = self.keys[at]
            hit = key == wanted
            found[left[hit]] = at[hit]
            at += 1
            go_on = (key < wanted) & (at < stop)
            left, at, stop, wanted = left[go_on], at[go_on], stop[go_on], wanted[go_on]
        return found
