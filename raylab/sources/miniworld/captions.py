"""Alt-texts for pictures of known entities, as noisy as the web's.

Two things go wrong with a web alt-text, and each has one table. What it *says* (`CONTENTS`): several names of which the
picture holds one, a bare name with several meanings, the wrong name, none. How it is *written* (`writing.WRITINGS`): as
a file name, in capitals, with a shop's words around it, mistyped, cut short.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raylab.sources.miniworld import wording
from raylab.sources.miniworld.entities import BY_ID, PICTURED, MiniEntity
from raylab.sources.miniworld.names import (
    a_place,
    any_name,
    bare_name,
    forms,
    label_of,
    name_of,
    of_kind,
    pick,
    translations,
    unpictured,
)
from raylab.sources.miniworld.writing import WRITINGS, Name, NamedSpan, Pieces, fields_of, fill, join


@dataclass(frozen=True)
class Caption:
    """An alt-text and the names in it."""

    text: str
    spans: tuple[NamedSpan, ...]
    """The names, in order, not overlapping."""
    content: str
    """The `Content` that it was made by."""
    writing: str
    """The `writing.Writing` that it was made by."""


@dataclass(frozen=True)
class Content:
    """One way in which a caption relates to its picture."""

    name: str
    share: float
    """Of the captions of pictures with an entity."""
    example: str
    """Such a caption, for a picture of Kenya's flag."""
    compose: Callable[[Sequence[MiniEntity], random.Random], Pieces]


def _compose(template: str, entity: MiniEntity, rng: random.Random, **given: Name | Pieces) -> Pieces:
    """Fill `template` about `entity`; `given` replaces a field's usual filler."""
    fillers: dict[str, Callable[[], str | Name | Pieces]] = {
        "name": lambda: bare_name(entity, rng),
        "hint": lambda: rng.choice(wording.HINTS.get(entity.kind, (entity.kind,))),
        "description": lambda: _described_pieces(entity),
        "place": lambda: a_place(rng),
        "other": lambda: a_place(rng),
        "person": lambda: Name(rng.choice(wording.PEOPLE), None, "PERSON"),
        "product": lambda: rng.choice(wording.PRODUCTS),
        "number": lambda: str(rng.randrange(100, 10**7)),
        "year": lambda: str(rng.randrange(1995, 2025)),
        "price": lambda: f"${rng.randrange(3, 60)}.{rng.choice(('00', '49', '95', '99'))}",
    }
    needed = fields_of(template)
    return fill(template, {field: given[field] if field in given else fillers[field]() for field in needed})


def _described_pieces(entity: MiniEntity) -> Pieces:
    """Return the description with the entity's own bare names marked in it."""
    own = "|".join(re.escape(name) for name in sorted(forms(entity.id).bare, key=len, reverse=True) if len(name) > 2)
    if not own:
        return [entity.description]
    parts = re.split(rf"\b({own})\b", entity.description)
    return [name_of(entity, part) if i % 2 else part for i, part in enumerate(parts) if part]


def _hinted(entities: Sequence[MiniEntity], rng: random.Random) -> Pieces:
    if len(entities) > 1 and rng.random() < 0.7:
        names = _listed([bare_name(entity, rng) for entity in entities], rng)
        return _compose(rng.choice(wording.PAIR), entities[0], rng, names=names)
    entity = rng.choice(entities)
    full = forms(entity.id).full
    if full and (rng.random() < 0.35 or not forms(entity.id).bare):
        return _compose(rng.choice(wording.FULL), entity, rng, name=name_of(entity, pick(full, rng)))
    flies = entity.kind.endswith(("flag", "pennant"))
    return _compose(rng.choice(wording.FLYING if flies and rng.random() < 0.35 else wording.HINTED), entity, rng)


def _described(entities: Sequence[MiniEntity], rng: random.Random) -> Pieces:
    entity = rng.choice(entities)
    return _compose(rng.choice(wording.DESCRIBED), entity, rng, name=any_name(entity, rng))


def _bare(entities: Sequence[MiniEntity], rng: random.Random) -> Pieces:
    return _compose(rng.choice(wording.BARE), rng.choice(entities), rng)


def _several(entities: Sequence[MiniEntity], rng: random.Random) -> Pieces:
    named = [*entities, *(_alike(entities, rng) for _ in range(rng.choice((1, 1, 2, 2, 3))))]
    named = list({entity.id: entity for entity in named}.values())
    rng.shuffle(named)
    names = _listed([bare_name(entity, rng) for entity in named], rng)
    return _compose(rng.choice(wording.SEVERAL), rng.choice(entities), rng, names=names)


def _alike(entities: Sequence[MiniEntity], rng: random.Random) -> MiniEntity:
    """Return an entity that is named in the same breath: mostly of the same kind."""
    pool = of_kind(rng.choice(entities).kind) if rng.random() < 0.8 else PICTURED
    return rng.choice(pool)


def _listed(names: list[Name], rng: random.Random) -> Pieces:
    joiner = rng.choice(wording.JOINERS)
    pieces: Pieces = []
    for i, name in enumerate(names):
        if i:
            pieces.append(", " if i < len(names) - 1 else joiner)
        pieces.append(name)
    return pieces


def _beside(entities: Sequence[MiniEntity], rng: random.Random) -> Pieces:
    return _compose(rng.choice(wording.BESIDE), rng.choice(entities), rng)


def _foreign(entities: Sequence[MiniEntity], rng: random.Random) -> Pieces:
    entity = rng.choice(entities)
    known = next((translations()[name] for name in forms(entity.id).bare if name in translations()), None)
    if known is None:
        return _compose(rng.choice(wording.FOREIGN_PLAIN), entity, rng)
    language = rng.choice(sorted(known))
    return _compose(
        rng.choice(wording.FOREIGN_WORDS[language]), entity, rng, name=Name(known[language], entity.id, "GPE")
    )


def _wrong(entities: Sequence[MiniEntity], rng: random.Random) -> Pieces:
    shown = {entity.id for entity in entities}
    other = rng.choice(PICTURED)
    while other.id in shown:
        other = rng.choice(PICTURED)
    return _compose(rng.choice(wording.WRONG), other, rng)


def _nameless(entities: Sequence[MiniEntity], rng: random.Random) -> Pieces:
    return _compose(rng.choice(wording.NAMELESS), PICTURED[0], rng)


def _empty(entities: Sequence[MiniEntity], rng: random.Random) -> Pieces:
    return [rng.choice(("", "", " "))]


def _elsewhere(entities: Sequence[MiniEntity], rng: random.Random) -> Pieces:
    """About one of the catalogue's entities that no picture shows."""
    entity = rng.choice(unpictured())
    return _compose(rng.choice(wording.CLUTTER[label_of(entity, entity.title)]), entity, rng)


CONTENTS = (
    Content("name and hint", 0.370, "Kenya flag waving against blue sky", _hinted),
    Content("several names", 0.250, "Quiz: Kenya, Malawi or South Sudan", _several),
    Content("bare name", 0.155, "Kenya coffee mug", _bare),
    Content("among others", 0.080, "Photo: Greg Olsen / Kenya in Lima", _beside),
    Content("described", 0.060, "Flag of Kenya (national flag)", _described),
    Content("other language", 0.030, "Drapeau Kenya", _foreign),
    Content("wrong name", 0.025, "Peru flag sticker", _wrong),
    Content("no name", 0.022, "DSC_0123.jpg", _nameless),
    Content("empty", 0.008, "", _empty),
)
"""What the captions of pictures with an entity say.

The shares are our choice, within what is known of the web: a tagger that saw neither finds 0, 1, 2, 3, 4 or more names
in 0.24, 0.50, 0.17, 0.05, 0.04 of 10,000 real alt-texts and in 0.30, 0.40, 0.18, 0.08, 0.03 of these captions
(bench/miniworld_noise.py).
"""

CLUTTER_CONTENTS = (
    Content("not pictured", 0.450, "Lima, capital of Peru", _elsewhere),
    Content("no name", 0.400, "DSC_0123.jpg", _nameless),
    Content("wrong name", 0.150, "Peru flag sticker", _wrong),
)
"""What the captions of pictures without any catalogued entity say."""


def caption(entity_ids: Sequence[str], rng: random.Random) -> Caption:
    """Return an alt-text for a picture of `entity_ids` (none: clutter only), drawn from `rng` alone."""
    contents = CONTENTS if entity_ids else CLUTTER_CONTENTS
    content = rng.choices(contents, [content.share for content in contents])[0]
    writing = rng.choices(WRITINGS, [writing.share for writing in WRITINGS])[0]
    pieces = content.compose([BY_ID[entity_id] for entity_id in entity_ids], rng)
    if any(piece if isinstance(piece, str) else piece.text for piece in pieces):
        pieces = writing.change(pieces, rng)
    text, spans = join(pieces)
    return Caption(text, spans, content.name, writing.name)
