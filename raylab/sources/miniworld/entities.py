"""The entities of the mini-world: everything that its pictures can show, and what shares a name with it.

What a picture shows is a *flag*, a *sign* or a *symbol*, and that is its entity: "Flag of France", not France. The
country is an entity of its own that no picture shows; both answer to the name "France", as on the web. The same holds
for Lima (signal flag, capital, bean) or Georgia (two flags, two places, a painter).

The entities stand in plain tables in ``assets/entities``, one line each, fields parted by ``|``: names, descriptions
and a `draw` design. An id is a Wikidata QID only where the item is certain (the tests compare each with a catalogue);
flags and the rest have local ids such as ``mw:signal-flag-lima``.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

_TABLES = Path(__file__).parent / "assets" / "entities"
_UNSEEN_EVERY = 7  # about 15 % of each kind
_THOUSAND = 1000.0
_WITH_ARTICLE = ("The ", "United", "Republic", "Bahamas", "Czech", "Netherlands")


@dataclass(frozen=True)
class MiniEntity:
    """One entity of the mini-world."""

    id: str
    """A Wikidata QID where it is certain, else a local id such as ``mw:flag-of-france``."""
    title: str
    kind: str
    """What it is in two words: ``national flag``, ``signal flag``, ``road sign``, ``country``, ``person``, ..."""
    aliases: tuple[str, ...]
    """Other names, the title not among them."""
    description: str
    """A few words in lower case, as Wikidata writes them."""
    summary: str
    """One or two sentences."""
    types: tuple[str, ...]
    """Names of the classes that it belongs to, the nearest first."""
    popularity: float
    """Page views a month: a made figure of a plausible size."""
    pictured: bool
    """Whether scenes show it."""
    unseen: bool
    """Held out of training by whoever keeps to the seen/unseen split of questions; only pictured entities are."""
    design: str = ""
    """How it is drawn, in the language of `draw`; empty unless pictured."""


def _slug(title: str) -> str:
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _rows(table: str) -> Iterator[list[str]]:
    for line in (_TABLES / table).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            yield [value.strip() for value in line.split("|")]


def _list(field: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in field.split(";") if name.strip())


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def _pictured(title: str, kind: str, views: str, design: str, **fields: object) -> MiniEntity:
    return MiniEntity(
        id=f"mw:{_slug(title)}",
        title=title,
        kind=kind,
        popularity=float(views) * _THOUSAND,
        pictured=True,
        unseen=False,
        design=design,
        **fields,  # type: ignore[arg-type]
    )


def _national_flags() -> Iterator[MiniEntity]:
    """Two entities a row: the flag, which is pictured, and its country, which is not."""
    for country, qid, what, capital, adjective, others, views, look, design in _rows("national_flags.txt"):
        flag_views, country_views = views.split()
        bare = country.removeprefix("The ")
        nicknames = tuple(name.removeprefix("=") for name in _list(others))
        country_names = (bare, *(name[1:] for name in _list(others) if name.startswith("=")))
        names = (country, bare, f"{adjective} flag", f"{bare} flag", f"National flag of {bare}", *nicknames)
        in_text = f"the {bare}" if country.startswith(_WITH_ARTICLE) else country
        yield _pictured(
            f"Flag of {in_text}",
            "national flag",
            flag_views,
            design,
            aliases=tuple(dict.fromkeys(names)),
            description="national flag",
            summary=f"Flag of {in_text} is the national flag of {in_text}: {look}.",
            types=("national flag", "flag"),
        )
        yield MiniEntity(
            id=qid,
            title=country,
            kind="country",
            aliases=tuple(name for name in dict.fromkeys(country_names) if name != country),
            description=what,
            summary=f"{country} is {_with_article(what)}. Its capital is {capital.removesuffix('.')}.",
            types=("country", "state", "place"),
            popularity=float(country_views) * _THOUSAND,
            pictured=False,
            unseen=False,
        )


def _signal_flags() -> Iterator[MiniEntity]:
    for word, kind, others, views, meaning, look, design in _rows("signal_flags.txt"):
        pennant = kind != "signal flag"
        title = word if word.endswith(("Substitute", "Pennant")) else f"{kind.capitalize()} {word}"
        names = (f"{word} pennant",) if pennant else (f"{word} flag",)
        yield _pictured(
            title,
            kind,
            views,
            design,
            aliases=tuple(name for name in (word, *names, *_list(others)) if name != title),
            description=f"maritime {kind}",
            summary=f"{title} is a flag of the International Code of Signals, {look}. It means: {meaning}.",
            types=(kind, "maritime flag", "flag"),
        )


def _other_pictured() -> Iterator[MiniEntity]:
    for title, kind, others, views, description, look, types, design in _rows("other_pictured.txt"):
        yield _pictured(
            title,
            kind,
            views,
            design,
            aliases=_list(others),
            description=description,
            summary=f"{title} is {_with_article(kind)} that shows {look}.",
            types=_list(types),
        )


def _distractors() -> Iterator[MiniEntity]:
    for title, qid, kind, others, views, description, summary, types in _rows("distractors.txt"):
        yield MiniEntity(
            id=f"mw:{_slug(title)}" if qid == "-" else qid,
            title=title,
            kind=kind,
            aliases=_list(others),
            description=description,
            summary=summary,
            types=_list(types),
            popularity=float(views) * _THOUSAND,
            pictured=False,
            unseen=False,
        )


def _mark_unseen(entities: list[MiniEntity]) -> Iterator[MiniEntity]:
    """Hold out every seventh entity of each kind."""
    count: dict[str, int] = defaultdict(int)
    for entity in entities:
        count[entity.kind] += entity.pictured
        yield replace(entity, unseen=entity.pictured and count[entity.kind] % _UNSEEN_EVERY == _UNSEEN_EVERY // 2)


@cache
def _load() -> tuple[MiniEntity, ...]:
    return tuple(_mark_unseen([*_national_flags(), *_signal_flags(), *_other_pictured(), *_distractors()]))


ENTITIES: tuple[MiniEntity, ...] = _load()
"""All entities: the mini-world's knowledge base."""

BY_ID: dict[str, MiniEntity] = {entity.id: entity for entity in ENTITIES}

PICTURED: tuple[MiniEntity, ...] = tuple(entity for entity in ENTITIES if entity.pictured)
"""The entities that scenes can show."""
