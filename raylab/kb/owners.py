"""From entities to the alias index: every surface of every entity, hashed, grouped, with its priors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.kb.aliases import (
    ALIAS,
    FUNCTION,
    IN_LOWER,
    IN_TITLE,
    IN_UPPER,
    KIND,
    PARTIAL,
    SURNAME,
    TITLE,
    AliasIndex,
    whole,
)
from raylab.kb.hashing import HashIndex
from raylab.kb.normalise import Folding, Tokens, read

OWNER_WEIGHTS = np.array([1.0, 0.5, 0.4])
"""What a popularity counts where the alias is the entity's title, another name, a part of its name (our choice).
Captions name people by their surname nearly as readily as by any other name (`bench/linking_quality.py`)."""

FUNCTION_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but
by can could did do does doing done down during each either else ever every few for from further get got had
has have having he her here hers him his how i if in into is it its just like made make may me might more most
must my near neither never new no nor not now of off on once one only onto or other our ours out over own per
same shall she should since so some such than that the their theirs them then there these they this those
through to too two under until up upon us use used very via was we were what when where which while who whom
whose why will with within without would yes yet you your yours
im ive id ill youre youve youll hes shes weve theyre dont doesnt didnt isnt arent wasnt cant couldnt wont wouldnt
lets thats whats 1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th 11th 12th 13th 14th 15th 16th 17th 18th 19th 20th 21st
22nd 23rd 24th 25th 26th 27th 28th 29th 30th 31st
"""
_TAIL = r"\s*\([^()]*\)\s*$"  # "(footballer)": how Wikipedia tells titles apart
_SURNAME = (
    r"^[^\s,][^,]*?\s(?P<surname>(?:(?:van|von|de|der|den|del|della|di|da|dos|du|la|le|al|el|bin|ibn|ter|ten)\s)*[^\s,]{2,})"
    r"(?:,?\s(?:Jr|Sr|II|III|IV|V)\.?)?$"
)
_NUMERAL = r"^[IVX]+$"  # "III" is no surname
_REGNAL = r"^(?P<name>[^\s,]+ [IVX]+)(?: of |, ).+$"  # "William III of the Netherlands"


@dataclass(frozen=True)
class Owners:
    """Who owns which surface: one entry a pair of surface and entity, all arrays [n]."""

    hashes: np.ndarray
    """uint64: the surface."""
    entities: np.ndarray
    """int32: the entity's row."""
    kinds: np.ndarray
    """uint8: `TITLE`, `ALIAS` or `PARTIAL`, with the form bits of `aliases`."""
    gaps: np.ndarray
    """uint8: as how many words it may be read."""

    DTYPES: ClassVar = {"hashes": np.uint64, "entities": np.int32, "kinds": np.uint8, "gaps": np.uint8}

    @classmethod
    def join(cls, parts: list[Owners]) -> Owners:
        """Return the entries of all `parts`, in order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def prior_weights(popularity: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Return what p(entity | alias) is proportional to: ``OWNER_WEIGHTS[kind] * (popularity + floor)``.

    The floor is the lowest percentile of the known popularities: an entity of which none is known keeps a small chance,
    and where none is known at all, the kind alone decides.

    Args:
        popularity: float [n], 0 where it is not known.
        kind: `TITLE`, `ALIAS` or `PARTIAL`, [n].
    """
    known = popularity[popularity > 0]
    floor = float(np.quantile(known, 0.01)) if known.size else 1.0
    return OWNER_WEIGHTS[kind] * (popularity.astype(np.float64) + floor)


def owners_of(entities: pa.Table, persons: np.ndarray, folding: Folding) -> Owners:
    """List the surfaces of some entities; entity numbers count from 0.

    A title's trailing "(...)" is left off for another name. A person's surname or regnal name ("William III") is a
    partial name.

    Args:
        entities: `schema.ENTITY` rows.
        persons: bool [n].
        folding: character tables.
    """
    titles = pc.cast(entities["title"], pa.string()).combine_chunks()
    bare = pc.replace_substring_regex(titles, _TAIL, "")
    bare = bare if isinstance(bare, pa.Array) else bare.combine_chunks()
    people = bare.filter(pa.array(persons))
    surnames = pc.struct_field(pc.extract_regex(people, _SURNAME), "surname")
    surnames = pc.if_else(pc.match_substring_regex(surnames, _NUMERAL), None, surnames)
    regnal = pc.struct_field(pc.extract_regex(people, _REGNAL), "name")
    aliases = entities["aliases"].combine_chunks()
    differs = pc.not_equal(bare, titles).to_numpy(zero_copy_only=False)
    everyone = np.arange(len(titles))
    return Owners.join(
        [
            _owners(titles, everyone, TITLE, folding),
            _owners(bare.filter(pa.array(differs)), everyone[differs], ALIAS, folding),
            _owners(pc.list_flatten(aliases), pc.list_parent_indices(aliases).to_numpy(), ALIAS, folding),
            _owners(surnames, everyone[persons], PARTIAL, folding),
            _owners(regnal, everyone[persons], PARTIAL, folding),
        ]
    )


def _owners(surfaces: pa.Array, entities: np.ndarray, kind: int, folding: Folding) -> Owners:
    parts = [Owners(*(np.zeros(0, dtype) for dtype in Owners.DTYPES.values()))]
    function_words = _function_words(folding)
    for chunk in read(surfaces, folding):
        tokens = chunk.tokens
        if not len(tokens):
            continue
        text, first, last = whole(tokens)
        form = _forms(tokens, first, last, function_words) | np.uint8(kind)
        gaps = tokens.gap_pattern(first, last)
        rows = entities[chunk.first + text].astype(np.int32)
        parts.append(Owners(tokens.hash(first, last), rows, form, gaps))
    return Owners.join(parts)


def _forms(tokens: Tokens, first: np.ndarray, last: np.ndarray, function_words: HashIndex) -> np.ndarray:
    """Tell how each surface is written, uint8 form bits."""
    upper = tokens.upper[1][last] - tokens.upper[0][first]
    lower = tokens.lower[1][last] - tokens.lower[0][first]
    # "Coffee table": only the first word's capital, and another word that could have had one
    cased = tokens.lower[1][last] > tokens.lower[1][first]
    sentence = (upper == 1) & (tokens.upper[1][first] > tokens.upper[0][first]) & cased
    in_lower = (upper == 0) | sentence
    in_upper = (lower == 0) & (upper > 1)
    form = np.where(in_lower, IN_LOWER, np.where(in_upper, IN_UPPER, IN_TITLE)).astype(np.uint8)
    every = np.arange(len(tokens))
    words = np.append(0, np.cumsum(function_words.find(tokens.hash(every, every)) >= 0))
    form[(words[last + 1] - words[first]) == last - first + 1] |= FUNCTION
    return form


def _function_words(folding: Folding) -> HashIndex:
    (chunk,) = read(pa.array(FUNCTION_WORDS.split()), folding)
    every = np.arange(len(chunk.tokens))
    return HashIndex.of(np.unique(chunk.tokens.hash(every, every)))


def build_index(owners: Owners, popularity: np.ndarray, folding: Folding, max_owners: int) -> tuple[AliasIndex, int]:
    """Group the owners by surface.

    Args:
        owners: of the whole knowledge base.
        popularity: float32 [entities], 0 where it is not known.
        folding: the tables that the surfaces were read with.
        max_owners: likelier owners of an alias beyond which the rest are left out ("Smith" has fifty thousand).

    Returns:
        The index, and how many owners were left out.
    """
    owners = _one_entry_a_pair(owners)
    weight = prior_weights(popularity[owners.entities], owners.kinds & KIND)
    order = np.lexsort((owners.entities, -weight, owners.hashes))
    hashes = owners.hashes[order]
    first = np.flatnonzero(changes(hashes))
    forms = np.bitwise_or.reduceat(owners.kinds[order], first) & ~np.uint8(KIND)
    forms[np.minimum.reduceat(owners.kinds[order] & np.uint8(KIND), first) == PARTIAL] |= np.uint8(SURNAME)
    gaps = np.bitwise_or.reduceat(owners.gaps[order], first)
    keys = hashes[first]
    rank = np.arange(len(hashes)) - np.repeat(first, np.diff(np.append(first, len(hashes))))
    order = order[rank < max_owners]
    counts = np.minimum(np.diff(np.append(first, len(hashes))), max_owners)
    indptr = np.append(0, np.cumsum(counts))
    weight = weight[order]
    priors = weight / np.repeat(np.add.reduceat(weight, indptr[:-1]), counts)
    index = AliasIndex(
        HashIndex.of(keys), folding, forms, gaps, indptr.astype(np.uint32), owners.entities[order],
        priors.astype(np.float32), owners.kinds[order],
    )  # fmt: skip
    return index, len(hashes) - len(order)


def changes(values: np.ndarray) -> np.ndarray:
    """Mark the entries that differ from the one before, and the first, bool [n]."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def _one_entry_a_pair(owners: Owners) -> Owners:
    """Unite entries that name the same entity by the same surface: the strongest kind, all forms."""
    order = np.lexsort((owners.kinds & KIND, owners.entities, owners.hashes))
    hashes, entities = owners.hashes[order], owners.entities[order]
    kinds, gaps = owners.kinds[order], owners.gaps[order]
    first = np.flatnonzero(changes(hashes) | changes(entities))
    forms = np.bitwise_or.reduceat(kinds, first) & ~np.uint8(KIND)
    return Owners(
        hashes[first], entities[first], (kinds[first] & np.uint8(KIND)) | forms, np.bitwise_or.reduceat(gaps, first)
    )
