"""What the mini-world's entities are called in captions, and which type of thing a reader takes each name for."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from raylab.sources.miniworld import ASSETS, wording
from raylab.sources.miniworld.entities import BY_ID, ENTITIES, PICTURED, MiniEntity
from raylab.sources.miniworld.writing import Name


class Forms(NamedTuple):
    """The names of an entity by what they tell."""

    full: tuple[str, ...]
    """Say what kind of thing is meant: Flag of Kenya, Kenyan flag."""
    bare: tuple[str, ...]
    """Could be something else: Kenya, Lima."""


_SAYS_ITS_KIND = re.compile(
    r"(flag|sign|banner|pennant|substitute|symbol|pictogram|emblem|GHS|hazard"
    r"|drapeau|drapelul|bandera|bandiera|bandeira|zászló|vlag|флаг|tri[ck]?olo[ur]+|tricolore)",
    re.IGNORECASE,
)


@cache
def forms(entity_id: str) -> Forms:
    """Return the names of the entity, in the catalogue's order, split by whether they tell what kind of thing it is."""
    entity = BY_ID[entity_id]
    names = dict.fromkeys((entity.title, *entity.aliases))
    full = tuple(name for name in names if _SAYS_ITS_KIND.search(name))
    return Forms(full, tuple(name for name in names if name not in full))


@cache
def unpictured() -> tuple[MiniEntity, ...]:
    """Return the entities that no picture shows."""
    return tuple(entity for entity in ENTITIES if not entity.pictured)


@cache
def _known_places() -> tuple[MiniEntity, ...]:
    return tuple(entity for entity in unpictured() if label_of(entity, entity.title) == "GPE")


@cache
def of_kind(kind: str) -> tuple[MiniEntity, ...]:
    """Return the pictured entities of one kind."""
    return tuple(entity for entity in PICTURED if entity.kind == kind)


@cache
def translations() -> dict[str, dict[str, str]]:
    """Return country names in other languages (Unicode CLDR), by English name: {language: name}."""
    lines = (ASSETS / "country_names.tsv").read_text("utf-8").splitlines()
    languages = lines[0].split("\t")[1:]
    rows = (line.split("\t") for line in lines[1:])
    return {row[0]: {language: name for language, name in zip(languages, row[1:]) if name} for row in rows}


@cache
def _owners() -> dict[str, tuple[MiniEntity, ...]]:
    """The entities of each name, in lower case, the most popular one first."""
    owners: dict[str, list[MiniEntity]] = {}
    for entity in sorted(ENTITIES, key=lambda entity: -entity.popularity):
        for name in {entity.title.lower(), *map(str.lower, entity.aliases)}:
            owners.setdefault(name, []).append(entity)
    return {name: tuple(entities) for name, entities in owners.items()}


@cache
def label_of(entity: MiniEntity, form: str) -> str:
    """Return the type that a named-entity recogniser gives to `form`: its usual meaning's, whatever is meant here."""
    usual = _owners().get(form.lower(), (entity,))[0]
    if usual.pictured:
        return "FLAG" if usual.kind.endswith(("flag", "pennant")) else "SIGN"
    return next((label for kinds, label in wording.LABELS.items() if usual.kind in kinds.split()), "MISC")


def name_of(entity: MiniEntity, form: str) -> Name:
    """Return `form` as a name that means `entity`."""
    return Name(form, entity.id, label_of(entity, form))


def pick(options: Sequence[str], rng: random.Random) -> str:
    """Take one, the first ones more often: catalogues list the usual names first."""
    return options[min(int(rng.expovariate(1.6)), len(options) - 1)]


def bare_name(entity: MiniEntity, rng: random.Random) -> Name:
    """Name the entity by a bare form where it has one, mostly by the usual one."""
    found = forms(entity.id)
    return name_of(entity, pick(found.bare or found.full, rng))


def any_name(entity: MiniEntity, rng: random.Random) -> Name:
    """Name the entity, four times in ten by a form that says its kind."""
    full, bare = forms(entity.id)
    says_kind = full and (rng.random() < 0.4 or not bare)
    return name_of(entity, pick(full if says_kind else bare, rng))


def a_place(rng: random.Random) -> Name:
    """Name a place that the picture does not hold, every other time one that the catalogue knows."""
    if rng.random() < 0.5:
        entity = rng.choice(_known_places())
        return name_of(entity, entity.title)
    return Name(rng.choice(wording.PLACES), None, "GPE")
