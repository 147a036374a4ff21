"""Which token may follow: a trie of millions of tokenised names as three flat arrays.

Nodes are numbered breadth first, those of a level by (parent, token). So a node's children stand side by side, the
token that leads to a node can be stored with the node, and looking up many nodes at once is plain indexing.

A name ends where the model writes ``eos``: that is no node, but a name number at the name's last node.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylab.errors import RaylabError
from raylab.models.trie_build import Arrays, Ragged, build, gather

_VERSION = 1
_FACTS = "trie.json"
_ARRAYS = ("first", "token", "name", "level", "shadowed")


class Trie:
    """Make one with `Trie.build`, or open one with `Trie.open`.

    Attributes:
        first: int32 [nodes + 2]; the children of node i are ``first[i] ... first[i + 1] - 1``. Node 0 is the root. One
            more node than there are, `nobody`, has no children and no name: where dead beams stand.
        token: int32 [nodes + 1], the token that leads to a node; -1 for the root and nobody.
        name: int32 [nodes + 1], the number of the name that ends at a node, or -1.
        level: int64 [depth + 2], a numpy array: nodes of level t are ``level[t] ... level[t + 1] - 1``.
        shadowed: int32 [m, 2], a numpy array: names that are not in the trie, and the earlier name with the same tokens
            that has their place; -1 for a name without any tokens.
        fan_out: children of a node at most, a level each.
        names: names in the trie.
        nodes: the root included.
        depth: tokens of the longest name.
        vocab, eos: of the tokenizer.
        ends_at: a name of so many tokens ends by itself, with no ``eos``; null: none does. ALD codes do.
        fingerprint: 32 hex digits of what the trie holds.
    """

    def __init__(self, arrays: Arrays, vocab: int, eos: int, ends_at: int | None, fingerprint: str) -> None:
        self.first = torch.from_numpy(arrays.first)
        self.token = torch.from_numpy(arrays.token)
        self.name = torch.from_numpy(arrays.name)
        self.level, self.shadowed = arrays.level, arrays.shadowed
        self.vocab, self.eos, self.ends_at, self.fingerprint = vocab, eos, ends_at, fingerprint
        self.nobody = self.nodes = len(arrays.token) - 1
        self.depth = len(self.level) - 2
        children = np.diff(arrays.first)
        self.fan_out = [int(children[a:b].max()) for a, b in zip(self.level[:-1], self.level[1:])]
        self.names = int((arrays.name >= 0).sum())
        self._arrays = arrays

    @classmethod
    def build(cls, names: Ragged | Iterable[Sequence[int]], vocab: int, eos: int, ends_at: int | None = None) -> Trie:
        """Build the trie of tokenised names.

        Args:
            names: their tokens without ``bos`` and ``eos``. Of names with the same tokens the first is kept, the
                others are in `shadowed`, as are names without tokens.
            vocab: size of the vocabulary.
            eos: the token that ends a name.
            ends_at: see the attribute; no name may be longer.

        Raises:
            RaylabError: a token outside the vocabulary, an ``eos`` within a name, no name at all.
        """
        names = names if isinstance(names, Ragged) else gather(names)
        inside = np.flatnonzero(names.token == eos)
        if len(inside):
            name = int(np.searchsorted(names.start, inside[0], "right")) - 1
            raise RaylabError(f"trie: name {name} has the end token {eos} in it; tokenise without special tokens.")
        arrays = build(names, vocab)
        if not (arrays.name >= 0).any():
            raise RaylabError(f"trie: none of {len(names)} names has tokens; there is nothing to decode to.")
        depth = len(arrays.level) - 2
        if ends_at is not None and depth > ends_at:
            raise RaylabError(f"trie: a name has {depth} tokens; with ends_at={ends_at} none may have more.")
        return cls(arrays, vocab, eos, ends_at, arrays.fingerprint(vocab, eos, ends_at))

    @property
    def steps(self) -> int:
        """Tokens that must be written to reach the end of any name, ``eos`` included."""
        return self.depth if self.depth == self.ends_at else self.depth + 1

    def to(self, device: str | torch.device) -> Trie:
        """Return this trie with its tensors on a device."""
        moved = Trie.__new__(Trie)
        moved.__dict__.update(self.__dict__)
        for array in ("first", "token", "name"):
            setattr(moved, array, getattr(self, array).to(device))
        return moved

    def bounds(self, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where the children of nodes begin and end, int64 of the same shape each."""
        return self.first[node].long(), self.first[node + 1].long()

    def children(self, node: torch.Tensor, width: int) -> torch.Tensor:
        """Return the first children of nodes in a shape that does not depend on them.

        Args:
            node: int64, of any shape; `nobody` has none.
            width: W; `fan_out` of the nodes' level leaves none out.

        Returns:
            int64, [..., W], filled up with `nobody`.
        """
        first, end = self.bounds(node)
        child = first[..., None] + torch.arange(width, device=node.device)
        return child.where(child < end[..., None], self.nobody)

    def save(self, folder: str | Path) -> None:
        """Write the arrays and trie.json; a folder that is there is replaced when all is written."""
        folder = Path(folder)
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for array in _ARRAYS:
            np.save(part / f"{array}.npy", getattr(self._arrays, array))
        (part / _FACTS).write_text(json.dumps(self._facts(), indent=1) + "\n", "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Trie:
        """Open what `save` wrote; the arrays stay on disk and are read where a search goes.

        Raises:
            RaylabError: no trie there, or one of another version.
        """
        folder = Path(folder)
        try:
            facts = json.loads((folder / _FACTS).read_text("utf-8"))
            # Copy on write: torch wants arrays that may be written to, and nothing writes.
            arrays = Arrays(**{array: np.load(folder / f"{array}.npy", mmap_mode="c") for array in _ARRAYS})
        except (OSError, ValueError) as error:
            raise RaylabError(f"trie {folder}: cannot be opened ({error}); build and save it again.") from error
        if facts.get("version") != _VERSION:
            raise RaylabError(f"trie {folder}: version {facts.get('version')}, wanted {_VERSION}; build it again.")
        return cls(arrays, facts["vocab"], facts["eos"], facts["ends_at"], facts["fingerprint"])

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"version": _VERSION}
        for fact in ("names", "nodes", "depth", "fan_out", "vocab", "eos", "ends_at", "fingerprint"):
            facts[fact] = getattr(self, fact)
        return facts | {"shadowed": len(self.shadowed)}
