"""Sampled rows made ready to show."""

import base64
import io

from finished_run import DrawnSource
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raylab.label.samples import CAPTION_SHOWN, THUMBNAIL_SIDE, make_thumbnails, mark_mentions
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
