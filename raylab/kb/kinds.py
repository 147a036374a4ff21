"""Five coarse kinds of entity, as bits: what an NER label can agree or disagree with."""

from __future__ import annotations

import enum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class Kind(enum.IntFlag):
    """An entity may be of several kinds; 0 says that its types tell nothing."""

    PERSON = 1
    PLACE = 2
    ORGANISATION = 4
    WORK = 8
    EVENT = 16


ROOT_TYPES: dict[str, Kind] = {
    "Q5": Kind.PERSON,  # human
    "Q215627": Kind.PERSON,  # person
    "Q95074": Kind.PERSON,  # fictional character
    "Q4271324": Kind.PERSON,  # mythical character
    "Q27096213": Kind.PLACE,  # geographic entity
    "Q2221906": Kind.PLACE,  # geographic location
    "Q618123": Kind.PLACE,  # geographical feature
    "Q56061": Kind.PLACE,  # administrative territorial entity
    "Q486972": Kind.PLACE,  # human settlement
    "Q515": Kind.PLACE,  # city
    "Q6256": Kind.PLACE,  # country
    "Q3624078": Kind.PLACE,  # sovereign state
    "Q811979": Kind.PLACE,  # architectural structure
    "Q43229": Kind.ORGANISATION,  # organization
    "Q4830453": Kind.ORGANISATION,  # business
    "Q431289": Kind.ORGANISATION,  # brand
    "Q12973014": Kind.ORGANISATION,  # sports team
    "Q386724": Kind.WORK,  # work
    "Q17537576": Kind.WORK,  # creative work
    "Q11424": Kind.WORK,  # film
    "Q1190554": Kind.EVENT,  # occurrence
    "Q1656682": Kind.EVENT,  # event
}
"""Wikidata classes high enough that the closure over P279 reaches one of them (our choice, by reading the tree)."""

NER_KINDS: dict[str, Kind] = {
    "PERSON": Kind.PERSON,
    "PER": Kind.PERSON,
    "GPE": Kind.PLACE,
    "LOC": Kind.PLACE,
    "FAC": Kind.PLACE,
    "ORG": Kind.ORGANISATION,
    "WORK_OF_ART": Kind.WORK,
    "EVENT": Kind.EVENT,
}
"""The labels of spaCy's pipelines (OntoNotes, WikiNER) that name a kind; PRODUCT, NORP and MISC name none."""


def kinds_of(types: pa.Array | pa.ChunkedArray) -> NDArray[np.uint8]:
    """Return the kinds, as bits, of each entity.

    Args:
        types: list<string>: P31 closed over P279, null where unknown.

    Returns:
        uint8 [entities]: `Kind` bits.
    """
    lists = types.combine_chunks() if isinstance(types, pa.ChunkedArray) else types
    found = np.zeros(len(lists), np.uint8)
    if len(lists) == 0:
        return found
    owners = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    values = pc.list_flatten(lists)
    for kind in Kind:
        roots = pa.array([qid for qid, of in ROOT_TYPES.items() if of == kind])
        hit = pc.is_in(values, value_set=roots).to_numpy(zero_copy_only=False)
        found[owners[hit]] |= np.uint8(kind)
    return found
