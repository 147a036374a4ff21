"""The rows of the mini-world: what row `index` of world `seed` shows and says, from these two numbers alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from raylab.sources.miniworld.captions import Caption, caption
from raylab.sources.miniworld.entities import BY_ID, PICTURED, MiniEntity

if TYPE_CHECKING:
    from raylab.sources.miniworld.scene import Painting, Placement

CLUTTER_SHARE = 0.03
"""Of the pictures: hold nothing that the catalogue knows."""
PAIR_SHARE = 0.20
"""Of the pictures: hold two entities."""
SAME_KIND_SHARE = 0.75
"""Of the pairs: are of one kind, as flags in a row are."""
HELD_OUT_SHARE = 0.10
"""Of the rows without an unseen entity: go to the validation set; as many go to the test set."""


@dataclass(frozen=True)
class Sample:
    """A row of the mini-world."""

    seed: int
    index: int
    entity_ids: tuple[str, ...]
    """The entities in the picture, left to right: none, one or two."""
    caption: Caption
    split: str
    """``train``, ``val`` or ``test``. A picture that holds an unseen entity is never in ``train``."""

    @property
    def image_ref(self) -> dict:
        """Where its picture is, as a `schema.IMAGE_REF` value."""
        return {"uri": f"miniworld://?seed={self.seed}", "offset": self.index, "size": -1}


@cache
def _weights() -> dict[str, float]:
    """How often each pictured entity is drawn: rank r gets r^-0.25, so that a small world still shows the rarest."""
    ranked = sorted(PICTURED, key=lambda entity: -entity.popularity)
    return {entity.id: rank**-0.25 for rank, entity in enumerate(ranked, start=1)}


def _draw(pool: Sequence[MiniEntity], rng: random.Random) -> MiniEntity:
    return rng.choices(pool, [_weights()[entity.id] for entity in pool])[0]


def _shown(rng: random.Random) -> tuple[str, ...]:
    how = rng.random()
    if how < CLUTTER_SHARE:
        return ()
    first = _draw(PICTURED, rng)
    if how < 1 - PAIR_SHARE:
        return (first.id,)
    same_kind = rng.random() < SAME_KIND_SHARE
    others = [entity for entity in PICTURED if entity is not first and (entity.kind == first.kind or not same_kind)]
    return (first.id, _draw(others, rng).id) if others else (first.id,)


def _split(entity_ids: Sequence[str], rng: random.Random) -> str:
    where = rng.random()
    if any(BY_ID[entity_id].unseen for entity_id in entity_ids):
        return "val" if where < 0.5 else "test"
    if where < HELD_OUT_SHARE:
        return "val"
    return "test" if where < 2 * HELD_OUT_SHARE else "train"


def sample(seed: int, index: int) -> Sample:
    """Return row `index` of world `seed`, without its picture (which takes far longer to make)."""
    rng = random.Random(f"miniworld:{seed}:{index}")
    entity_ids = _shown(rng)
    return Sample(seed, index, entity_ids, caption(entity_ids, rng), _split(entity_ids, rng))


def placements(row: Sample) -> tuple[Placement, ...]:
    """Say where the entities of `row` stand in its picture, and on what, without painting it."""
    from raylab.sources.miniworld.scene import layout

    return layout(row.entity_ids, _scene_rng(row))


def picture(row: Sample) -> Image.Image:
    """Paint the picture of `row`, RGB."""
    from raylab.sources.miniworld.scene import render

    image, _ = render(row.entity_ids, _scene_rng(row))
    return image


def painting(row: Sample) -> Painting:
    """Paint the picture of `row`, and keep what covers what: see `masks.mask`."""
    from raylab.sources.miniworld.scene import paint

    return paint(row.entity_ids, _scene_rng(row))


def _scene_rng(row: Sample) -> np.random.Generator:
    return np.random.default_rng([row.seed, row.index])
