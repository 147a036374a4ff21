"""What a generative model may call a knowledge base's entities: the trie of their titles, or of their ALD codes.

Both depend on the tokenizer. They are built once, kept beside the knowledge base, and mapped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raylab.errors import RaylabError
from raylab.models.ald import LENGTH, AldCodes, AldConfig
from raylab.models.trie import Trie

if TYPE_CHECKING:
    from raylab.kb.catalog import Catalog
    from raylab.models.text import Tokenizer

_BLOCK = 10_000
_ROWS = "rows.npy"


@dataclass(frozen=True)
class Titles:
    """A trie of titles.

    Attributes:
        trie: its names are titles, the more popular entity's first: it keeps the place where two titles are alike.
        rows: int64 [names], each name's row in the knowledge base.
    """

    trie: Trie
    rows: np.ndarray

    @classmethod
    def open(cls, catalog: Catalog, tokenizer: Tokenizer, length: int) -> Titles:
        """Map the titles' trie, building it first where it is missing.

        Args:
            catalog: the knowledge base.
            tokenizer: the model's.
            length: tokens of a name at most; longer ones are cut off, as they were in training.

        Raises:
            RaylabError: it has to be built and cannot be written.
        """
        folder = catalog.path / "tries" / _key(catalog, tokenizer, length)
        _once(folder, _ROWS, partial(_build, folder, catalog, tokenizer, length))
        return cls(Trie.open(folder), np.load(folder / _ROWS, mmap_mode="r"))

    @classmethod
    def open_codes(cls, catalog: Catalog, tokenizer: Tokenizer) -> Titles:
        """Map the trie of the entities' ALD codes: see `open_codes`."""
        return cls(Trie.open(_codes_folder(catalog, tokenizer) / "trie"), np.arange(len(catalog)))

    def row(self, name: np.ndarray) -> np.ndarray:
        """Return the knowledge base's row of each name, -1 for -1."""
        return np.where(name >= 0, self.rows[np.maximum(name, 0)], -1)

    def find(self, tokens: Sequence[Sequence[int]]) -> list[int]:
        """Return the name that each token sequence is, or -1."""
        return [self._walk(sequence) for sequence in tokens]

    def _walk(self, sequence: Sequence[int]) -> int:
        first, token = self.trie.first.numpy(), self.trie.token.numpy()
        node = 0
        for wanted in sequence:
            start, stop = first[node], first[node + 1]  # children stand in the order of their tokens
            node = start + int(np.searchsorted(token[start:stop], wanted))
            if node == stop or token[node] != wanted:
                return -1
        return int(self.trie.name[node])


def open_codes(catalog: Catalog, tokenizer: Tokenizer) -> AldCodes:
    """Map the ALD codes of a knowledge base's entities, row by row, making them first where they are missing.

    Raises:
        RaylabError: they have to be made and cannot be written.
    """
    return AldCodes.open(_codes_folder(catalog, tokenizer) / "codes")


def _codes_folder(catalog: Catalog, tokenizer: Tokenizer) -> Path:
    """Return the folder of codes and their trie, made first where it is missing."""
    folder = catalog.path / "ald" / _key(catalog, tokenizer, LENGTH)
    _once(folder, "trie", partial(_build_codes, folder, catalog, tokenizer))
    return folder


def _build_codes(folder: Path, catalog: Catalog, tokenizer: Tokenizer) -> None:
    reserved = tuple(sorted({tokenizer.pad, tokenizer.start}))
    config = AldConfig(vocab=tokenizer.vocab, eos=tokenizer.end, reserved=reserved)
    names = (ids or [tokenizer.pad] for ids in _tokens(np.arange(len(catalog)), catalog, tokenizer))
    codes = AldCodes.build(names, config)
    codes.save(folder / "codes")
    Trie.build(codes.sequences(), tokenizer.vocab, tokenizer.end, ends_at=LENGTH).save(folder / "trie")


def _once(folder: Path, last: str, build: Callable[[], None]) -> None:
    """Build a folder where the file that is written last is missing; processes that come at once wait for the first."""
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / last).exists():
                build()
    except OSError as error:
        raise RaylabError(
            f"{folder} cannot be written ({error}): the entities' names have to be indexed there."
        ) from error


def _key(catalog: Catalog, tokenizer: Tokenizer, length: int) -> str:
    words = json.dumps([tokenizer.model.get_vocab(), catalog.info.fingerprint, length, tokenizer.end], sort_keys=True)
    return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


def _build(folder: Path, catalog: Catalog, tokenizer: Tokenizer, length: int) -> None:
    rows = np.argsort(-catalog.popularity, kind="stable")
    names = (ids[:length] for ids in _tokens(rows, catalog, tokenizer))
    trie = Trie.build(names, tokenizer.vocab, tokenizer.end)
    trie.save(folder)
    np.save(folder / _ROWS, rows)


def _tokens(rows: np.ndarray, catalog: Catalog, tokenizer: Tokenizer) -> Iterator[list[int]]:
    for start in range(0, len(rows), _BLOCK):
        titles = catalog.take(rows[start : start + _BLOCK], ("title",))["title"].to_pylist()
        yield from tokenizer.ids(titles)
