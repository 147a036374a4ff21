import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.annotate.resolve import Resolved, Resolver
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog

ROWS = [
    {"id": "Q308", "title": "Mercury", "description": "planet of the Solar System", "popularity": 90},
    {"id": "Q925", "title": "Mercury", "description": "chemical element", "types": ["Q1"], "popularity": 60},
    {"id": "Q15869", "title": "Freddie Mercury", "description": "British singer", "types": ["Q5"], "popularity": 99},
    {"id": "Q1", "title": "metal", "popularity": 1},
    {"id": "Q90", "title": "Paris", "aliases": ["City of Light"], "popularity": 90},
    {"id": "Q830149", "title": "Paris, Texas", "aliases": ["Paris"], "popularity": 99},
    {"id": "Q30", "title": "United States", "aliases": ["US", "The States"], "popularity": 99},
    {"id": "Q2", "title": "Us", "description": "2019 film", "popularity": 9},
    {"id": "Q1299", "title": "The Beatles", "popularity": 50},
    {"id": "Q146", "title": "cat", "popularity": 50},
    {"id": "Q42329", "title": "pony", "popularity": 9},
    {"id": "Q16970", "title": "church", "popularity": 9},
    {"id": "Q6", "title": "Boeing 737", "popularity": 9},
    {"id": "Q7", "title": "Kaiser Frederick III", "popularity": 9},
    {"id": "Q8", "title": "Northern cardinal", "popularity": 9},
    {"id": "Q9", "title": "Northern cardinals museum", "popularity": 9},
    {"id": "Q10", "title": "Karlsson of Alby", "popularity": 9},
    {"id": "Q11", "title": "Carlsson of Alby", "popularity": 9},
    {"id": "Q12", "title": "Amélie (film)", "popularity": 9},
    {"id": "Q13", "title": "東京タワー博物館", "popularity": 9},
    {"id": "Q14", "title": "Pelé", "description": "Brazilian football player", "types": ["Q5"], "popularity": 9},
    {"id": "Q15", "title": "Pele", "description": "volcano goddess", "popularity": 99},
]


@pytest.fixture(scope="module")
def resolver(tmp_path_factory) -> Resolver:
    folder = tmp_path_factory.mktemp("resolve")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    build(BuildConfig(out=str(folder / "kb"), catalogues=(str(rows),), workers=1, context=False))
    return Resolver(Catalog.open(folder / "kb"), 0.88)


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Resolver:
    folder = tmp_path_factory.mktemp("mini") / "kb"
    build(BuildConfig(out=str(folder), catalogues=("miniworld://",), workers=1, context=False))
    return Resolver(Catalog.open(folder), 0.88)


@pytest.mark.parametrize(
    ("title", "entity", "how"),
    [
        ("Paris", "Q90", "exact"),  # who is so called comes before who is likelier
        ("City of Light", "Q90", "exact"),
        ("city of light", "Q90", "normalised"),
        ("US", "Q30", "exact"),
        ("Us", "Q2", "exact"),
        ("Mercury", "Q308", "exact"),  # two are so called: the likelier
        ("Mercury (planet)", "Q308", "exact"),
        ("Mercury (element)", "Q925", "exact"),
        ("mercury (metal)", "Q925", "normalised"),  # by the title of its type
        ("Mercury (newspaper)", "Q308", "normalised"),  # nobody fits: a guess
        ("Pelé (footballer)", "Q14", "exact"),
        ("Pele (footballer)", "Q14", "normalised"),
        ("Pele", "Q15", "exact"),
        ("PELÉ", "Q15", "normalised"),
        ("Amélie (film)", "Q12", "exact"),
        ("Amélie", "Q12", "exact"),
        ("Amelie", "Q12", "normalised"),
        ("the united states", "Q30", "normalised"),
        ("Beatles", "Q1299", "normalised"),
        ("The cats", "Q146", "normalised"),
        ("Ponies", "Q42329", "normalised"),
        ("churches", "Q16970", "normalised"),
        ("Freddy Mercury", "Q15869", "close"),
        ("Freddie Mercurry (singer)", "Q15869", "close"),
        ("Untied States", "Q30", "close"),
        ("Northern cardnial", "Q8", "close"),
        ("Northern cardinals", "Q8", "normalised"),
        ("Boieng 737", "Q6", "close"),
        ("Boeing 747", None, "unresolved"),  # a figure is no misspelling
        ("Kaiser Frederick II", None, "unresolved"),  # neither is a numeral
        ("Harlsson of Alby", None, "unresolved"),  # as like to one as to the other
        ("caat", None, "unresolved"),  # too unlike, for its length
        ("Freddie", None, "unresolved"),
        ("Simmons", None, "unresolved"),
        ("", None, "unresolved"),
        ("()", None, "unresolved"),
        ("x" * 100_000, None, "unresolved"),
        ("\ud800 Paris", "Q90", "normalised"),
    ],
)
def test_titles(resolver, title, entity, how):
    (found,) = resolver([title])
    assert (found.entity_id, found.how) == (entity, how)
    assert 0 <= found.score <= 1
    if entity is None:
        assert found.name == title
    if how == "exact":
        assert found.score == 1
    if how == "close":
        assert 0.88 <= found.score < 1


def test_a_guess_tells_itself_by_its_score_and_the_unresolved_by_the_best_that_was_seen(resolver):
    guess, near, far = resolver(["Mercury (newspaper)", "Harlsson of Alby", "Zzyzx Wqwq"])
    assert guess.score < 0.8
    assert 0.9 < near.score < 1
    assert far == Resolved(None, "Zzyzx Wqwq", "unresolved", 0.0)


def test_answers_are_linked_without_guesses_at_misspelt_names(resolver):
    assert resolver.link(["paris", "Freddy Mercury", "the cat", "", "paris"]) == ["Q90", None, "Q146", None, "Q90"]
    assert resolver.link(["Mercury (newspaper)", "Mercury (planet)"]) == [None, "Q308"], "and without guesses"
    assert resolver.link([]) == []
    assert resolver([]) == []


def test_the_index_of_close_names_is_made_when_the_first_title_asks_for_it_and_never_above_one(tmp_path, resolver):
    build(BuildConfig(out=str(tmp_path / "kb"), catalogues=("miniworld://",), workers=1, context=False))
    catalog = Catalog.open(tmp_path / "kb")
    one = Resolver(catalog, 0.88)
    one(["France", "abc"])
    one.link(["Frnace of old"])
    Resolver(catalog, 2.0)(["Flag of Frnace"])
    assert not (tmp_path / "kb" / "close").exists()
    assert one(["Flag of Frnace"])[0].name == "Flag of France"
    assert (tmp_path / "kb" / "close").is_dir()
    Catalog.open(tmp_path / "kb")


def test_results_depend_on_neither_batch_nor_order(resolver):
    titles = [row["title"] for row in ROWS] + ["Freddy Mercury", "Mercury (element)", "nothing known"]
    alone = [resolver([title])[0] for title in titles]
    assert resolver(titles) == alone
    assert resolver(titles[::-1] * 2) == alone[::-1] * 2


# --- the mini-world


def test_every_title_resolves_to_itself(mini):
    titles, ids = mini._catalog.titles.to_pylist(), mini._catalog.ids.to_pylist()
    assert [(one.entity_id, one.name, one.how) for one in mini(titles)] == [
        (number, title, "exact") for number, title in zip(ids, titles)
    ]


def unaccented(text: str) -> str:
    return "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (str.upper, 1.0),
        (str.lower, 1.0),
        (unaccented, 1.0),
        (lambda text: text.replace(" ", "-"), 1.0),
        (lambda text: f"The {text}", 1.0),
        (lambda text: text[: len(text) // 2] + text[len(text) // 2 + 1 :], 0.85),  # a letter lost
        (lambda text: text[:3] + text[4] + text[3] + text[5:], 0.85),  # two letters swapped
        (lambda text: text[:-2] + "q" + text[-1:], 0.85),  # a wrong letter
    ],
)
def test_changed_titles_resolve_to_their_entity_or_to_none(mini, change, least):
    """The longer ones: a letter of a short name is a large part of it."""
    titles = [one for one in mini._catalog.titles.to_pylist() if len(one) >= 10]
    found = mini([change(title) for title in titles])
    right = sum(one.name == title for one, title in zip(found, titles))
    wrong = [(title, one) for one, title in zip(found, titles) if one.entity_id and one.name != title]
    assert right >= least * len(titles), (right, len(titles), wrong[:5])
    assert len(wrong) <= 0.02 * len(titles), wrong


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=40), max_size=5))
def test_any_text_is_resolved_or_not_and_the_same_each_time(mini, titles):
    found = mini(titles)
    assert found == mini(titles)
    for title, one, linked in zip(titles, found, mini.link(titles)):
        assert (one.entity_id is None) == (one.how == "unresolved")
        assert one.entity_id is not None or one.name == title
        assert 0 <= one.score <= 1
        assert linked in (None, one.entity_id)
        assert linked or one.how != "exact"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_one_edit_in_a_long_title_never_leads_far_away(mini, data):
    long = [one for one in mini._catalog.titles.to_pylist() if len(one) >= 14]
    title = data.draw(st.sampled_from(long))
    at = data.draw(st.integers(1, len(title) - 2))
    letter = data.draw(st.sampled_from("aeiounrst"))
    edited = data.draw(st.sampled_from([title[:at] + title[at + 1 :], title[:at] + letter + title[at:]]))
    (found,) = mini([edited])
    assert found.name == title or found.how != "close" or found.score >= 0.95
