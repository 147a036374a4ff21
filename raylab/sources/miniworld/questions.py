"""Questions about the mini-world's pictures whose answers are entities, after OVEN (arXiv 2302.11154, section 3).

As there, the *entity* split asks what a picture shows, the *query* split asks for one thing in it by where it is or
what it is on. A picture for training holds no unseen entity; the answers of the other splits count as seen or unseen.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raylab.sources.miniworld.entities import BY_ID
from raylab.sources.miniworld.samples import Sample, placements

if TYPE_CHECKING:
    from raylab.sources.miniworld.scene import Placement

_GENERAL = (
    "Which {noun} is this?",
    "What is the name of this {noun}?",
    "What {noun} is shown in the picture?",
    "What is the main object in the image?",
)
_SIDES = ("Which {noun} is on the {side}?", "What is shown on the {side}?", "What is the {noun} on the {side} called?")
_CARRIERS = {
    "pole": ("Which {noun} is flying on the pole?", "What hangs on the pole?"),
    "post": ("Which {noun} stands on the post?", "What is on the post?"),
    "mug": ("What is shown on the mug?", "Which {noun} is printed on the mug?"),
    "shirt": ("What is shown on the shirt?", "Which {noun} is on the T-shirt?"),
    "sticker": ("What is shown on the sticker?", "Which {noun} does the sticker show?"),
    "poster": ("What is shown on the poster?", "Which {noun} does the poster show?"),
    "screen": ("What is shown on the screen?", "Which {noun} can be seen on the screen?"),
    "paint": ("Which {noun} is painted on the wall?", "What is painted there?"),
}


@dataclass(frozen=True)
class Question:
    """A question about a picture; the fields are those of OVEN's files, and `image`."""

    data_id: str
    """Unique: ``miniworld_query_val_7_000000123_0``."""
    image_id: str
    """The picture's: ``miniworld_7_000000123``."""
    image: dict
    """A `schema.IMAGE_REF` value that `MiniworldSource.image_bytes` reads."""
    question: str
    entity_id: str
    """The answer."""
    entity_text: str
    """The answer's title."""
    data_split: str
    """``entity_train``, ``query_val_seen``, ``query_test_unseen``, ..."""


def questions(row: Sample) -> list[Question]:
    """Return the questions about the picture of `row`: none where it holds no entity, each with one right answer."""
    rng = random.Random(f"questions:{row.seed}:{row.index}")
    found = placements(row)
    asked: list[tuple[str, str, Placement]] = []
    if len(found) == 1:
        asked.append(("entity", rng.choice(_GENERAL), found[0]))
    for side, placement in zip(("left", "right") if len(found) > 1 else (), found):
        asked.append(("query", rng.choice(_SIDES).replace("{side}", side), placement))
    carriers = [placement.carrier for placement in found]
    for placement in found:
        if carriers.count(placement.carrier) == 1:
            asked.append(("query", rng.choice(_CARRIERS[placement.carrier]), placement))
    return [_question(row, number, *one) for number, one in enumerate(asked)]


def _noun(kind: str) -> str:
    return next((noun for noun in ("flag", "pennant", "sign") if kind.endswith(noun)), "symbol")


def _question(row: Sample, number: int, task: str, template: str, placement: Placement) -> Question:
    entity = BY_ID[placement.entity_id]
    split = row.split if row.split == "train" else f"{row.split}_{'unseen' if entity.unseen else 'seen'}"
    place = f"{row.seed}_{row.index:09d}"
    return Question(
        data_id=f"miniworld_{task}_{row.split}_{place}_{number}",
        image_id=f"miniworld_{place}",
        image=row.image_ref,
        question=template.replace("{noun}", _noun(entity.kind)),
        entity_id=entity.id,
        entity_text=entity.title,
        data_split=f"{task}_{split}",
    )
