"""Sampled rows made ready to show."""

import base64
import io
import random

from hypothesis import given
from hypothesis import strategies as st
from label import finished_run
from label.finished_run import DrawnSource
from PIL import Image

from raylab.label.samples import (
    CANDIDATES_SHOWN,
    CAPTION_SHOWN,
    THUMBNAIL_SIDE,
    Named,
    Sample,
    entity_ids,
    make_samples,
    make_thumbnails,
    mark_mentions,
)
from raylab.sources.base import Limits

SPANS = st.lists(st.tuples(st.integers(-3, 500), st.integers(-3, 500)), max_size=5)


@given(st.text(max_size=450), SPANS)
def test_marking_keeps_the_text_whatever_the_spans(caption: str, spans: list[tuple[int, int]]) -> None:
    pieces = mark_mentions(caption, [{"start": start, "end": end} for start, end in spans])
    shown = [text for text, _ in pieces]
    if shown and shown[0] == "…" and not caption.startswith("…"):
        shown = shown[1:]
    if len(caption) > CAPTION_SHOWN and shown and shown[-1] == "…":
        shown = shown[:-1]
    assert "".join(shown) in caption
    assert len("".join(shown)) <= CAPTION_SHOWN
    if len(caption) <= CAPTION_SHOWN:
        assert "".join(shown) == caption


def test_a_late_mention_is_still_shown() -> None:
    caption = "x" * 5000 + "Lima" + "y" * 5000
    pieces = mark_mentions(caption, [{"start": 5000, "end": 5004}])
    assert ("Lima", True) in pieces
    assert pieces[0] == pieces[-1] == ("…", False)


def test_overlapping_mentions_are_marked_once() -> None:
    pieces = mark_mentions("flag of New Delhi", [{"start": 8, "end": 17}, {"start": 12, "end": 17}])
    assert pieces == [("flag of ", False), ("New Delhi", True)]


def test_thumbnails_are_small_pictures_and_refusals_are_words() -> None:
    refs = [{"uri": "drawn://", "offset": number, "size": -1} for number in (50, 51, 52)] + [None]
    corrupt, missing, drawn, absent = make_thumbnails(refs, DrawnSource(), Limits())
    assert (corrupt.uri, corrupt.refusal) == (None, "image corrupt")
    assert (missing.uri, missing.refusal) == (None, "missing image")
    assert (absent.uri, absent.refusal) == (None, "no image")
    assert drawn.uri is not None
    image = Image.open(io.BytesIO(base64.b64decode(drawn.uri.split(",")[1])))
    assert max(image.size) == THUMBNAIL_SIDE


def test_quality_gives_way_to_the_budget() -> None:
    refs = [{"uri": "drawn://", "offset": number, "size": -1} for number in range(2, 12)]
    rich, poor = (make_thumbnails(refs, DrawnSource(), Limits(), budget) for budget in (10**6, 5 * 10**4))
    assert sum(len(one.uri or "") for one in poor) < 0.7 * sum(len(one.uri or "") for one in rich)


def sample_of(**changed: object) -> Sample:
    row = finished_run.row(3, random.Random(3), None) | changed
    return make_samples([row], DrawnSource(), Limits(), {"Q230": Named("Georgia", "country")})[row["row_id"]]


def test_an_entity_is_one_line_however_many_mentions_led_to_it() -> None:
    line = finished_run.row(3, random.Random(3), None)["candidates"][0]
    twice = [line | {"entity_id": "Q230", "link_score": 0.1}, line | {"entity_id": "Q1"}, line | {"entity_id": "Q230"}]
    lines = sample_of(candidates=twice, entity_id="Q1").candidates
    assert [(one.entity_id, one.chosen) for one in lines] == [("Q1", True), ("Q230", False)]
    assert lines[1].link_score == line["link_score"]
    assert lines[1].entity == Named("Georgia", "country")


def test_many_candidates_are_counted_and_not_all_shown() -> None:
    line = finished_run.row(3, random.Random(3), None)["candidates"][0]
    sample = sample_of(candidates=[line | {"entity_id": f"Q{number}"} for number in range(12)])
    assert (len(sample.candidates), sample.more_candidates) == (CANDIDATES_SHOWN, 12 - CANDIDATES_SHOWN)


def test_a_label_is_right_wrong_or_not_known() -> None:
    assert sample_of(entity_id="Q230", truth=["Q1", "Q230"]).right is True
    assert sample_of(entity_id="Q230", truth=[]).right is False
    assert sample_of(entity_id="Q230", truth=None).right is None
    assert sample_of(entity_id="Q230", truth=["Q1"], reject_reason="low_score").right is None


def test_only_plain_web_addresses_become_links() -> None:
    assert sample_of(url="https://shop.example/1").link == "https://shop.example/1"
    for url in ("javascript:alert(1)", "data:text/html,x", "//x", "", None):
        assert sample_of(url=url).link is None


def test_a_blank_caption_is_no_caption() -> None:
    assert sample_of(caption=" \t ").caption == sample_of(caption=None).caption == []


NOTE = {
    "decision": "corrected",
    "candidate_id": "Q230",
    "candidate_name": "Georgia?",
    "title": "Georgia (state)",
    "resolution": "close",
    "confidence": 0.5,
    "rescued": None,
    "description": None,
    "rationale": None,
    "questions": [
        {"question": "q", "answer": "a", "answer_id": "Q230"},
        {"question": "p", "answer": "b", "answer_id": None},
    ],
    "prompts": None,
    "attempts": None,
}


def test_an_annotation_is_shown_by_names_with_its_links() -> None:
    note = sample_of(annotation=NOTE, truth=["Q230"]).note
    assert note is not None
    assert (note.before, note.before_right, note.rescued) == ("Georgia", True, False)
    assert note.questions == [("q", "a", "Georgia"), ("p", "b", None)]
    other = sample_of(annotation=NOTE | {"candidate_id": "Q9", "questions": None}, truth=None).note
    assert other is not None
    assert (other.before, other.before_right, other.questions) == ("Georgia?", None, [])
    assert sample_of().note is None


def test_a_title_that_names_no_entity_is_a_label_and_wrong() -> None:
    sample = sample_of(annotation=NOTE, entity_id=None, entity_name="Old kingdom", truth=["Q1"])
    assert sample.entity == Named("Old kingdom")
    assert sample.right is False
    assert sample_of(entity_id=None, entity_name=None).entity is None


def test_names_are_looked_up_for_candidates_and_answers() -> None:
    row = finished_run.row(3, random.Random(3), None) | {"annotation": NOTE | {"candidate_id": "Q77"}}
    assert {"Q77", "Q230"} <= set(entity_ids([row]))
