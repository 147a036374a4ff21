"""How a trie is computed: level by level, all names at once; see `trie` for what the arrays mean."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from raylab.errors import RaylabError

_CHUNK = 1 << 16  # sequences turned into arrays at once


@dataclass(frozen=True)
class Ragged:
    """Token sequences of any lengths, end to end.

    Attributes:
        token: int32 [all tokens].
        start: int64 [sequences + 1]; sequence i is ``token[start[i]:start[i + 1]]``.
    """

    token: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        """Ragged."""
        return len(self.start) - 1

    @property
    def length(self) -> np.ndarray:
        """Tokens of each, int64."""
        return np.diff(self.start)


def gather(sequences: Iterable[Sequence[int]]) -> Ragged:
    """Put sequences end to end; they may come from a generator, so that they never lie in memory as lists."""
    tokens, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for chunk in _chunks(sequences):
        lengths.append(np.fromiter(map(len, chunk), np.int64, len(chunk)))
        tokens.append(np.fromiter(itertools.chain.from_iterable(chunk), np.int32, int(lengths[-1].sum())))
    return Ragged(np.concatenate(tokens), np.concatenate(lengths).cumsum())


@dataclass(frozen=True)
class Arrays:
    """A trie's arrays, as `trie.Trie` describes them, with what building found out."""

    first: np.ndarray
    token: np.ndarray
    name: np.ndarray
    level: np.ndarray
    shadowed: np.ndarray

    def fingerprint(self, *settings: object) -> str:
        """Return 32 hex digits for these arrays and `settings`."""
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
        for array in (self.first, self.token, self.name):
            digest.update(array.tobytes())
        return digest.hexdigest()


def build(names: Ragged, vocab: int) -> Arrays:
    """Compute the trie of `names`.

    Every level groups the names that are still going on by (node they stand at, next token): sorted, the groups are the
    next level's nodes in breadth-first order. Takes memory for about 60 bytes a name beside the arrays.

    Raises:
        RaylabError: a token outside the vocabulary; more nodes than int32 can number.
    """
    _check_tokens(names, vocab)
    going = np.flatnonzero(names.length > 0)
    at = np.zeros(len(going), np.int64)  # each going name's node, counted within its level
    tokens, name, counts = [np.full(1, -1, np.int32)], [np.full(1, -1, np.int32)], []
    shadowed = [_pairs(np.flatnonzero(names.length == 0), -1)]
    width = 1
    for depth in itertools.count():
        if not len(going):
            break
        key, at = np.unique(at * vocab + names.token[names.start[going] + depth], return_inverse=True)
        tokens.append((key % vocab).astype(np.int32))
        counts.append(np.bincount(key // vocab, minlength=width))
        width = len(key)
        ends = names.length[going] == depth + 1
        owner, late = _owners(going[ends], at[ends], width)
        name.append(owner)
        shadowed.append(late)
        going, at = going[~ends], at[~ends]
    counts.append(np.zeros(width, np.int64))
    sizes = [len(part) for part in tokens]
    if sum(sizes) >= np.iinfo(np.int32).max:
        raise RaylabError(f"trie: {sum(sizes)} nodes are more than int32 can number; build it of fewer names.")
    return Arrays(
        first=_first_children(np.concatenate(counts)),
        token=np.concatenate([*tokens, np.full(1, -1, np.int32)]),
        name=np.concatenate([*name, np.full(1, -1, np.int32)]),
        level=np.cumsum([0, *sizes]),
        shadowed=np.concatenate(shadowed),
    )


def _first_children(counts: np.ndarray) -> np.ndarray:
    """Return where each node's children begin: the root's are 1, 2, ...; the last node, which nobody is, has none."""
    return np.concatenate([[1], 1 + counts.cumsum(), [1 + counts.sum()]]).astype(np.int32)


def _owners(names: np.ndarray, at: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a level's name a node (the lowest number, -1 for none), and the pairs (name left out, who has its place).

    `names` must rise, so that the first at a node is the lowest.
    """
    owner = np.full(width, -1, np.int32)
    owner[at[::-1]] = names[::-1]  # of several at one node the last write stays: the first name
    late = owner[at] != names
    return owner, _pairs(names[late], owner[at[late]])


def _pairs(left_out: np.ndarray, instead: np.ndarray | int) -> np.ndarray:
    return np.stack([left_out, np.broadcast_to(instead, left_out.shape)], 1).astype(np.int32)


def _check_tokens(names: Ragged, vocab: int) -> None:
    wrong = np.flatnonzero((names.token < 0) | (names.token >= vocab))
    if len(wrong):
        name = int(np.searchsorted(names.start, wrong[0], "right")) - 1
        raise RaylabError(
            f"trie: name {name} has token {names.token[wrong[0]]}, outside the vocabulary of {vocab}. "
            "The tokenizer must be the model's own."
        )


def _chunks(sequences: Iterable[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    rest = iter(sequences)
    while chunk := list(itertools.islice(rest, _CHUNK)):
        yield chunk
