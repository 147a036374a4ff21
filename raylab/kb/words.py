"""Names as vectors of a word space, in which likeness of direction is likeness of meaning (arXiv 1310.4546).

A folder, as jobs/words.py writes it and all processes of a host map it:

words.json    what it was made of
vectors.npy   float32 [tokens, dim], rows of length 1, in the order of the tokens' hashes
tokens.txt    a token a line, in that order: words in lower case, a phrase's joined by ``_``
ids/          token -> row

``random://?dim=500&seed=0`` stands for vectors that mean nothing: a baseline.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa

from raylab.assets import fetch
from raylab.errors import RaylabError
from raylab.kb.hashing import HashIndex, hash_strings, open_array

ABOUT, VECTORS, TOKENS, IDS = "words.json", "vectors.npy", "tokens.txt", "ids"
RANDOM = "random://"
JOINT = "_"
_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return a text's words: runs of letters and figures, in lower case."""
    return _WORD.findall(text.casefold())


class NameVectors(Protocol):
    """A word space.

    Attributes:
        id: what it is called.
        revision: 12 hex digits, or what says as much.
        dim: length of a vector.
    """

    id: str
    revision: str
    dim: int

    def vectors(self, names: Sequence[str]) -> np.ndarray:
        """Return float32 [n, dim], rows of length 1; nan for a name of which nothing is known."""
        ...


class Words:
    """A folder of word vectors, mapped: see `NameVectors`. Make one with `open_words`."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        self.id, self.revision, self.dim = str(about["id"]), str(about["revision"]), int(about["dim"])
        self._vectors, self._ids = open_array(folder / VECTORS), HashIndex.open(folder / IDS)
        if self._vectors.shape != (len(self._ids), self.dim):
            raise ValueError(f"{VECTORS} holds {self._vectors.shape} and not {(len(self._ids), self.dim)} numbers")

    def vectors(self, names: Sequence[str]) -> np.ndarray:
        """See `NameVectors`: a name that is a token has its vector, another the mean of its words' (our choice)."""
        words = [words_of(name) for name in names]
        row_N = self._rows([JOINT.join(one) for one in words])
        found_ND = np.full((len(names), self.dim), np.nan, np.float32)
        found_ND[row_N >= 0] = self._vectors[row_N[row_N >= 0]]
        left = np.flatnonzero(row_N < 0)
        found_ND[left] = self._means([words[number] for number in left.tolist()])
        return found_ND

    def _means(self, words: Sequence[Sequence[str]]) -> np.ndarray:
        """Return the direction of the mean of each list's known words, nan where none is known."""
        owner_W = np.repeat(np.arange(len(words)), [len(one) for one in words])
        row_W = self._rows([word for one in words for word in one])
        sum_ND = np.zeros((len(words), self.dim), np.float32)
        np.add.at(sum_ND, owner_W[row_W >= 0], self._vectors[row_W[row_W >= 0]])
        return directions(sum_ND)

    def _rows(self, tokens: Sequence[str]) -> np.ndarray:
        return self._ids.find(hash_strings(pa.array(tokens, pa.string())))


class RandomWords:
    """Vectors drawn by the name alone, each as likely as any other: see `NameVectors`."""

    def __init__(self, dim: int, seed: int) -> None:
        self.id, self.revision, self.dim, self._seed = "random", f"{dim}-{seed}", dim, seed

    def vectors(self, names: Sequence[str]) -> np.ndarray:
        """See `NameVectors`; a name without a letter or a figure is not known."""
        tokens = [JOINT.join(words_of(name)) for name in names]
        hashes = hash_strings(pa.array(tokens, pa.string())).tolist()
        found_ND = np.full((len(names), self.dim), np.nan, np.float32)
        for row, (token, number) in enumerate(zip(tokens, hashes)):
            if token:
                found_ND[row] = np.random.default_rng([self._seed, number]).standard_normal(self.dim)
        return directions(found_ND)


def directions(vectors_ND: np.ndarray) -> np.ndarray:
    """Return rows of length 1, float32; nan for one of zeros."""
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return (vectors_ND / np.where(length_N1 > 0, length_N1, np.nan)).astype(np.float32)


def open_words(address: str) -> NameVectors:
    """Open a word space.

    Args:
        address: a folder of jobs/words.py, here or in a bucket, or ``random://?dim=..&seed=..``.

    Raises:
        RaylabError: nothing is named or there, or it is damaged.
    """
    if address.startswith(RANDOM):
        return _random(address)
    if not address:
        raise RaylabError("No word vectors are named: make them with jobs/words.py, and give --task.words its folder.")
    folder = Path(fetch(address))
    if not (folder / ABOUT).is_file():
        raise RaylabError(
            f"{address} holds no word vectors ({ABOUT} is missing): make them with jobs/words.py, whose --given takes "
            "files of GloVe and word2vec and spaCy's pipelines."
        )
    try:
        return Words(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RaylabError(f"{address} is damaged ({error}): copy it, or make it with jobs/words.py, again.") from error


def _random(address: str) -> RandomWords:
    given = {"dim": "500", "seed": "0"} | dict(parse_qsl(address.partition("?")[2], keep_blank_values=True))
    if set(given) != {"dim", "seed"} or not all(value.isdecimal() for value in given.values()) or given["dim"] == "0":
        raise RaylabError(f"{address}: wanted {RANDOM}?dim=500&seed=0, whole numbers, dim above 0.")
    return RandomWords(int(given["dim"]), int(given["seed"]))
