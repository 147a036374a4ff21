from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter

import pyarrow.parquet as pq
import pytest

from raylab.sources.miniworld.captions import CLUTTER_CONTENTS, CONTENTS, caption
from raylab.sources.miniworld.entities import BY_ID, ENTITIES, PICTURED
from raylab.sources.miniworld.names import forms, label_of
from raylab.sources.miniworld.samples import Sample, sample
from raylab.sources.miniworld.writing import WRITINGS, Name, fill, join

ROWS = 2000
LABELS = {"GPE", "LOC", "PERSON", "ORG", "FLAG", "SIGN", "MISC"}
DIGEST = """
import hashlib
from raylab.sources.miniworld.names import forms, label_of
from raylab.sources.miniworld.samples import sample
print(hashlib.md5(repr([sample(7, index) for index in range(300)]).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def rows() -> list[Sample]:
    return [sample(7, index) for index in range(ROWS)]


def test_a_row_depends_on_seed_and_index_alone(rows):
    backwards = [sample(7, index) for index in reversed(range(50))]
    assert backwards[::-1] == rows[:50]
    assert [sample(8, index) for index in range(50)] != rows[:50]


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_makes_the_same_rows(rows, hash_seed):
    env = os.environ | {"PYTHONHASHSEED": hash_seed}
    found = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True, env=env)
    assert found.stdout.strip() == hashlib.md5(repr(rows[:300]).encode()).hexdigest()


def test_the_tables_are_whole():
    for table in (CONTENTS, CLUTTER_CONTENTS, WRITINGS):
        assert sum(noise.share for noise in table) == pytest.approx(1)
        assert len({noise.name for noise in table}) == len(table)


def test_every_noise_occurs_as_often_as_its_table_says(rows):
    with_entity = [row for row in rows if row.entity_ids]
    for table, counted, total in (
        (CONTENTS, Counter(row.caption.content for row in with_entity), len(with_entity)),
        (WRITINGS, Counter(row.caption.writing for row in rows), len(rows)),
    ):
        for noise in table:
            spread = 4 * (noise.share * (1 - noise.share) / total) ** 0.5
            assert abs(counted[noise.name] / total - noise.share) < spread, noise.name
            assert counted[noise.name], noise.name


def test_spans_are_ordered_whole_and_labelled(rows):
    for row in rows:
        text, end = row.caption.text, 0
        for span in row.caption.spans:
            assert end <= span.start < span.end <= len(text)
            assert span.label in LABELS
            assert span.entity_id is None or span.entity_id in BY_ID
            end = span.end


def test_a_span_holds_a_name_of_what_it_means(rows):
    checked = 0
    for row in rows:
        if (
            row.caption.writing not in ("as is", "stock photo", "lower case", "capitals")
            or "lang" in row.caption.content
        ):
            continue
        for span in row.caption.spans:
            if span.entity_id is not None:
                entity = BY_ID[span.entity_id]
                names = {name.casefold() for name in (entity.title, *entity.aliases)}
                assert row.caption.text[span.start : span.end].casefold() in names
                checked += 1
    assert checked > ROWS / 2


def test_an_example_of_each_way_of_writing():
    pieces = ["Old ", Name("Kenya", "mw:flag-of-kenya", "GPE"), " flag, big & new"]
    texts = {writing.name: join(writing.change(list(pieces), random.Random(1)))[0] for writing in WRITINGS}
    assert texts["as is"] == "Old Kenya flag, big & new"
    assert texts["lower case"] == "old kenya flag, big & new"
    assert texts["capitals"] == "OLD KENYA FLAG, BIG & NEW"
    assert texts["quoted"] == '"Old Kenya flag, big & new"'
    assert re.fullmatch(r"old[-_]kenya[-_]flag[-_]big[-_]new\S*", texts["file name"], re.IGNORECASE)
    assert "#Kenya" in texts["hashtags"]
    assert "&amp;" in texts["markup"]
    assert "Kenya" not in texts["typing error"]
    for name in ("site's name", "stock photo", "stray number", "shop talk", "stray spaces"):
        assert "Kenya" in texts[name]
        assert texts[name] != texts["as is"]


def test_a_name_that_is_cut_is_no_name_any_more():
    cut = next(writing for writing in WRITINGS if writing.name == "cut short")
    pieces = ["x" * 20, Name("A very long name that no site would keep", None, "MISC")]
    text, spans = join(cut.change(pieces, random.Random(3)))
    assert text.endswith("...")
    assert spans == ()


def test_fill_names_the_field_that_is_missing():
    with pytest.raises(KeyError, match="hint"):
        fill("{name} {hint}", {"name": "Kenya"})


def test_every_pictured_entity_can_be_captioned_in_every_way():
    rng = random.Random(5)
    for entity in PICTURED:
        for content in CONTENTS:
            text, _ = join(content.compose([entity], rng))
            assert "{" not in text, (content.name, text)
    for entity in ENTITIES:
        assert label_of(entity, entity.title) in LABELS
        assert any(forms(entity.id))


def test_names_with_several_meanings_stand_alone(rows):
    bare = {span.entity_id: row for row in rows for span in row.caption.spans if row.caption.content == "bare name"}
    owners = Counter(name.casefold() for entity in ENTITIES for name in {entity.title, *entity.aliases})
    ambiguous = [
        span
        for row in bare.values()
        for span in row.caption.spans
        if owners[row.caption.text[span.start : span.end].casefold()] > 1
    ]
    assert len(ambiguous) > 50


def test_some_captions_are_empty_foreign_or_without_a_name(rows):
    texts = [row.caption.text for row in rows]
    assert any(not text.strip() for text in texts)
    assert any(re.search(r"[\u0400-\u04ff\u3040-\u30ff\u0600-\u06ff]", text) for text in texts)
    assert any(row.caption.spans == () and text.strip() for row, text in zip(rows, texts))


def test_a_model_can_learn_from_the_captions(rows):
    """What a caption names is in its picture more often than anything else is."""
    held: dict[str, Counter[str]] = {}
    for row in [*rows, *(sample(8, index) for index in range(ROWS))]:
        for span in row.caption.spans:
            if span.entity_id and BY_ID[span.entity_id].pictured:
                held.setdefault(span.entity_id, Counter()).update(row.entity_ids)
    assert held.keys() == {entity.id for entity in PICTURED}
    first = [held[entity_id].most_common(1)[0][0] == entity_id for entity_id in held]
    assert sum(first) / len(first) > 0.98


def test_clutter_says_little_about_its_picture():
    texts = [caption((), random.Random(index)) for index in range(300)]
    assert {text.content for text in texts} == {content.name for content in CLUTTER_CONTENTS}


def test_the_ways_of_writing_are_as_frequent_as_in_real_alt_texts(shared_data):
    table = pq.read_table(shared_data / "alttext_10k" / "urls_and_alttext.parquet", columns=["TEXT"])
    texts = table["TEXT"].to_pylist()
    patterns = {
        "lower case": r"[^A-Z]*[a-z]{3}[^A-Z]*",
        "capitals": r"[^a-z]*[A-Z]{3}[^a-z]*",
        "stock photo": r"(?i).*(stock (photo|image|illustration|vector)|royalty free|foto stock).*",
        "file name": r"(?i)(\S*[a-z]+[-_][a-z]+[-_]\S*|.*\.(jpe?g|png|gif))",
        "stray spaces": r"\s.*|.*\s|.*\S  \S.*",
        "cut short": r".*(\.\.\.|…)",
        "hashtags": r".*#[A-Za-z]{3}.*",
        "markup": r".*(&\w+;|<\w+).*",
    }
    shares = {writing.name: writing.share for writing in WRITINGS}
    for name, pattern in patterns.items():
        real = sum(bool(re.fullmatch(pattern, text, re.DOTALL)) for text in texts) / len(texts)
        assert real / 2.5 < shares[name] < real * 2.5, (name, real)
