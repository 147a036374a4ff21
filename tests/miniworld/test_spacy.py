from __future__ import annotations

import subprocess
import sys

import pytest

from raylab.sources.miniworld import SPACY_PIPELINE
from raylab.sources.miniworld.captions import Caption
from raylab.sources.miniworld.make_spacy import SpacyConfig, blank_pipeline, captions, examples, train
from raylab.sources.miniworld.writing import NamedSpan

spacy = pytest.importorskip("spacy")


@pytest.fixture(scope="module")
def shipped():
    return spacy.load(SPACY_PIPELINE)


def test_the_shipped_pipeline_is_small():
    assert sum(file.stat().st_size for file in SPACY_PIPELINE.rglob("*") if file.is_file()) < 2_000_000


def test_it_finds_the_names_of_fresh_captions(shipped):
    scores = shipped.evaluate(examples(shipped, captions([3000], 500)))
    assert scores["ents_f"] > 0.95


def test_it_finds_names_in_plain_words(shipped):
    doc = shipped("Kenya flag flying in Lima, photo by Greg Olsen")
    assert [(ent.text, ent.label_) for ent in doc.ents] == [("Kenya", "GPE"), ("Lima", "GPE"), ("Greg Olsen", "PERSON")]


def test_it_bears_any_text(shipped):
    for text in ("", " ", "\u200b", "🇰🇪", "a" * 5000, "国旗 ステッカー", "\n\t"):
        shipped(text)


def test_training_learns_and_repeats_itself(tmp_path):
    config = SpacyConfig(seeds=(2000,), rows=200, epochs=6, width=32, depth=1, batch=16)
    first, second = train(config), train(config)
    first.to_disk(tmp_path / "pipeline")
    text = "Kenya flag sticker by Greg Olsen"
    kept = spacy.load(tmp_path / "pipeline")
    assert [str(ent) for ent in first(text).ents] == [str(ent) for ent in second(text).ents]
    assert [str(ent) for ent in kept(text).ents] == [str(ent) for ent in first(text).ents]
    assert first.evaluate(examples(first, captions([2000], 200)))["ents_f"] > 0.3


def test_names_inside_file_names_are_marked_and_those_inside_words_are_not():
    nlp = blank_pipeline(SpacyConfig(width=16, depth=1))
    file_name = Caption("Kenya_flag_02.jpg", (NamedSpan(0, 5, "mw:flag-of-kenya", "GPE"),), "", "")
    inside = Caption("#Kenyaflag", (NamedSpan(1, 6, "mw:flag-of-kenya", "GPE"),), "", "")
    marked, unmarked = examples(nlp, [file_name, inside])
    assert [ent.text for ent in marked.reference.ents] == ["Kenya"]
    assert unmarked.reference.ents == ()


def test_the_command_says_what_it_does():
    command = [sys.executable, "-m", "raylab.sources.miniworld.make_spacy", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--seeds" in shown.stdout


def test_the_world_imports_without_spacy():
    code = "import sys, raylab.sources.miniworld.source; print('spacy' in sys.modules or 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
