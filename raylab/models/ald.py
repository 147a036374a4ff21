"""GER's ALD codes: an entity as four tokens, the rarest ones of its name (arXiv 2403.02041)."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raylab.errors import RaylabError
from raylab.models.trie_build import Ragged, gather

LENGTH = 4
"""L of GER: three tokens and the end, or four."""
_TRIES = 1000
"""Random tokens that an entity is offered at most. GER has 3."""
_SLOT_BITS = 16
_VERSION = 1
_FACTS = "codes.json"


@dataclass(frozen=True)
class AldConfig:
    """How codes are made. The defaults are GER's on BERT's uncased vocabulary."""

    vocab: int = 30_522
    eos: int = 102
    reserved: tuple[int, ...] = (0, 100, 101, 103)
    """Tokens that no code is given at random: padding, unknown, start and mask."""
    seed: int = 0
    """Of the order in which entities are visited, and of random tokens."""

    def __post_init__(self) -> None:
        """Refuse vocabularies that do not fit a code's slots."""
        if self.vocab > 1 << _SLOT_BITS:
            raise RaylabError(f"ALD codes: a vocabulary of {self.vocab}; up to {1 << _SLOT_BITS} tokens are supported.")


class AldCodes:
    """Codes of entities, and entities of codes. Make them with `AldCodes.build`, or open them with `AldCodes.open`.

    Attributes:
        code_EL: int32 [entities, 4], filled up with ``eos``.
        config: how they were made.
    """

    def __init__(self, code_EL: np.ndarray, config: AldConfig) -> None:
        self.code_EL = code_EL
        self.config = config
        keys = _packed(code_EL)
        self._order = np.argsort(keys)
        self._sorted = keys[self._order]

    def __len__(self) -> int:
        """Entities."""
        return len(self.code_EL)

    @classmethod
    def build(cls, names: Ragged | Iterable[Sequence[int]], config: AldConfig = AldConfig()) -> AldCodes:
        """Give every entity a code of its own.

        Its tokens are ordered by how rare they are in all names; the code is the three rarest and ``eos``. Entities
        are visited in random order. Where a code is taken, the slot behind its last token gets the tokens left over,
        one after the other, then random ones. GER draws three and registers the last even if that is taken; we draw
        more, as two entities of one code could not be told apart. Which of equally rare tokens goes first is left
        open there: here the one that stands first in the name.

        Args:
            names: their tokens without special ones, in the entities' order.
            config: see there.

        Raises:
            RaylabError: a token that is ``eos`` or outside the vocabulary, or no code left for an entity.
        """
        names = names if isinstance(names, Ragged) else gather(names)
        _check_tokens(names, config)
        ranked = _by_rarity(names, config)
        code_EL = _first_codes(ranked, config)
        _make_unique(code_EL, ranked, config)
        return cls(code_EL, config)

    def entities(self, code_NL: np.ndarray) -> np.ndarray:
        """Return the entity of each code.

        Args:
            code_NL: integers [N, 4] as in `code_EL`: what follows an ``eos`` is not read.

        Returns:
            int64 [N], rows of `code_EL`; -1 for a code that nobody has.
        """
        keys = _packed(_ended(np.asarray(code_NL, np.int64), self.config.eos))
        if not len(self):
            return np.full(len(keys), -1)
        at = np.searchsorted(self._sorted, keys).clip(max=len(self) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1)

    def sequences(self) -> Ragged:
        """Return the codes up to their ``eos``: what `Trie.build` takes, with ``ends_at=LENGTH``."""
        real_EL = self.code_EL != self.config.eos
        start = np.concatenate([[0], real_EL.sum(1).cumsum()])
        return Ragged(self.code_EL[real_EL], start)

    def save(self, folder: str | Path) -> None:
        """Write codes.npy and codes.json; a folder that is there is replaced when all is written."""
        folder = Path(folder)
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        np.save(part / "codes.npy", self.code_EL)
        facts = {"version": _VERSION, "entities": len(self), "config": vars(self.config)}
        (part / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)

    @classmethod
    def open(cls, folder: str | Path) -> AldCodes:
        """Open what `save` wrote; the codes stay on disk.

        Raises:
            RaylabError: no codes there, or of another version.
        """
        folder = Path(folder)
        try:
            facts = json.loads((folder / _FACTS).read_text("utf-8"))
            code_EL = np.load(folder / "codes.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise RaylabError(f"ALD codes {folder}: cannot be opened ({error}); build and save them again.") from error
        if facts.get("version") != _VERSION:
            raise RaylabError(
                f"ALD codes {folder}: version {facts.get('version')}, wanted {_VERSION}; build them again."
            )
        config = facts["config"]
        return cls(code_EL, AldConfig(**config | {"reserved": tuple(config["reserved"])}))


def _check_tokens(names: Ragged, config: AldConfig) -> None:
    wrong = np.flatnonzero((names.token < 0) | (names.token >= config.vocab) | (names.token == config.eos))
    if len(wrong):
        entity = int(np.searchsorted(names.start, wrong[0], "right")) - 1
        raise RaylabError(
            f"ALD codes: entity {entity} has token {names.token[wrong[0]]}, which is the end token ({config.eos}) or "
            f"outside the vocabulary of {config.vocab}; tokenise without special tokens."
        )


def _by_rarity(names: Ragged, config: AldConfig) -> Ragged:
    """Return the names with each one's tokens by rising count over all names; equal ones keep their order."""
    count = np.bincount(names.token, minlength=config.vocab)
    owner = np.repeat(np.arange(len(names)), names.length)
    order = np.lexsort((count[names.token], owner))  # stable
    return Ragged(names.token[order], names.start)


def _first_codes(ranked: Ragged, config: AldConfig) -> np.ndarray:
    """Return int32 [entities, 4]: each one's rarest tokens, one slot less than there are, and ``eos``."""
    code_EL = np.full((len(ranked), LENGTH), config.eos, np.int32)
    for slot in range(LENGTH - 1):
        has = np.flatnonzero(ranked.length > slot)
        code_EL[has, slot] = ranked.token[ranked.start[has] + slot]
    return code_EL


def _make_unique(code_EL: np.ndarray, ranked: Ragged, config: AldConfig) -> None:
    """Change the codes that are taken when their entity's turn comes, in place.

    One entity after the other, as each turn depends on all before; but only those that meet a taken code cost more
    than a look into a set.
    """
    rng = np.random.default_rng(config.seed)
    keys = _packed(code_EL).tolist()
    free = np.setdiff1d(np.arange(config.vocab), [*config.reserved, config.eos])
    taken = set(_packed(np.full((1, LENGTH), config.eos)).tolist())  # a code must have a token
    for entity in rng.permutation(len(code_EL)).tolist():
        if keys[entity] in taken:
            name = ranked.token[ranked.start[entity] : ranked.start[entity + 1]].tolist()
            slot = min(len(name), LENGTH - 1)
            drawn = (int(free[rng.integers(len(free))]) for _ in range(_TRIES))
            offered = itertools.chain(name[LENGTH - 1 :], drawn)
            code_EL[entity, slot], keys[entity] = _free_token(keys[entity], slot, offered, taken)
            if keys[entity] in taken:
                raise RaylabError(
                    f"ALD codes: entity {entity} found no free code with {_TRIES} random tokens; too many names are "
                    f"alike for a vocabulary of {config.vocab}."
                )
        taken.add(keys[entity])


def _free_token(key: int, slot: int, tokens: Iterable[int], taken: set[int]) -> tuple[int, int]:
    """Return the first token that makes a code free in this slot, and the code's new key; else the last token's."""
    shift = _SLOT_BITS * (LENGTH - 1 - slot)
    without = key & ~(((1 << _SLOT_BITS) - 1) << shift)
    token = changed = -1
    for token in tokens:
        changed = without | token << shift
        if changed not in taken:
            break
    return token, changed


def _packed(code_NL: np.ndarray) -> np.ndarray:
    """Return a code as one uint64, slot after slot."""
    wide = code_NL.astype(np.uint64)
    shift = (_SLOT_BITS * np.arange(LENGTH - 1, -1, -1)).astype(np.uint64)
    return np.bitwise_or.reduce(wide << shift, axis=1)


def _ended(code_NL: np.ndarray, eos: int) -> np.ndarray:
    """Return the codes with ``eos`` in all slots behind the first ``eos``."""
    return np.where(np.maximum.accumulate(code_NL == eos, axis=1), eos, code_NL)
