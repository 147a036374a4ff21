"""The mini-world's entities: enough of them, well formed, ambiguous as in life, and honest about Wikidata ids."""

import gzip
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from raylab.sources.miniworld.entities import BY_ID, ENTITIES, PICTURED

CATALOGUE = Path(__file__).parents[2].parent / "shared" / "data" / "wikidata_catalog"


def owners() -> dict[str, set[str]]:
    found = defaultdict(set)
    for entity in ENTITIES:
        for name in (entity.title, *entity.aliases):
            found[name.lower()].add(entity.id)
    return found


def test_there_are_many_entities_of_many_kinds():
    assert len(PICTURED) >= 120
    assert len(ENTITIES) - len(PICTURED) >= 100
    assert len({entity.kind for entity in PICTURED}) >= 10
    assert Counter(entity.kind for entity in PICTURED)["signal flag"] == 26


def test_ids_and_titles_are_unique():
    assert len(BY_ID) == len(ENTITIES) == len({entity.title for entity in ENTITIES})


def test_every_entity_is_well_formed():
    for entity in ENTITIES:
        names = (entity.title, *entity.aliases)
        assert re.fullmatch(r"Q[1-9]\d*|mw:[a-z0-9]+(-[a-z0-9]+)*", entity.id), entity.id
        assert entity.description and entity.types, entity.id
        assert entity.summary.endswith("."), entity.id
        assert entity.popularity > 0, entity.id
        assert all(name == name.strip() != "" for name in names), entity.id
        assert len(set(names)) == len(names), entity.id
        assert entity.pictured == bool(entity.design), entity.id


def test_unseen_entities_are_a_spread_out_share_of_the_pictured_ones():
    unseen = [entity for entity in ENTITIES if entity.unseen]
    assert all(entity.pictured for entity in unseen)
    assert 0.1 <= len(unseen) / len(PICTURED) <= 0.2
    assert len({entity.kind for entity in unseen}) >= 10


@pytest.mark.parametrize(
    "name",
    ["Georgia", "India", "Lima", "Jordan", "Chad", "Turkey", "Victor", "Romeo", "Quebec", "Delta", "Golf", "Whiskey"],
)
def test_a_name_may_mean_what_is_pictured_and_what_is_not(name):
    meanings = [BY_ID[entity_id] for entity_id in owners()[name.lower()]]
    assert {entity.pictured for entity in meanings} == {True, False}


def test_a_flag_and_its_country_are_two_entities_with_one_name():
    flag, country = BY_ID["mw:flag-of-france"], BY_ID["Q142"]
    assert flag.pictured and not country.pictured
    assert country.title in flag.aliases
    assert country.popularity > flag.popularity


def test_wikidata_ids_are_those_of_the_catalogue():
    if not CATALOGUE.is_dir():
        pytest.skip("needs shared/data/wikidata_catalog beside the repository")
    known = {}
    for name in ("kgtk_arnold.jsonl.gz", "places_dr5hn.jsonl.gz"):
        with gzip.open(CATALOGUE / name, "rt", encoding="utf-8") as lines:
            for item in map(json.loads, lines):
                known.setdefault(item["qid"], set()).update({item["label"], *item.get("aliases", ())})
    borrowed = [entity for entity in ENTITIES if entity.id.startswith("Q")]
    wrong = [
        (entity.id, entity.title)
        for entity in borrowed
        if not {entity.title, *entity.aliases} & known.get(entity.id, set())
    ]
    assert len(borrowed) > 100
    assert wrong == []
