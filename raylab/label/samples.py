"""Sampled rows as a reader sees them: thumbnail, caption with its mentions marked, candidates with their evidence."""

from __future__ import annotations

import base64
import collections
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raylab.errors import RaylabError
from raylab.label.formats import words
from raylab.schema import Reason
from raylab.sources.base import Limits, Source

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL_SIDE = 208
"""Pixels of the longer side: shown at half that size on a dense screen, it stays sharp."""
THUMBNAIL_BUDGET = 1_600_000
"""Bytes that all thumbnails of a report share."""
CAPTION_SHOWN = 320
CANDIDATES_SHOWN = 5
_READ_AT_ONCE = 8


@dataclass(frozen=True)
class Named:
    """What an entity is called."""

    title: str
    description: str = ""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data URI, or why there is none."""

    uri: str | None
    refusal: str = ""


@dataclass(frozen=True)
class Candidate:
    """A line of the candidates' table."""

    entity_id: str
    entity: Named
    namesake: bool
    """Whether another candidate of the row has the same title."""
    via: str
    """The mention that led here."""
    source: str
    prior: float | None
    link_score: float | None
    image_cosine: float | None
    image_score: float | None
    chosen: bool
    true: bool


@dataclass(frozen=True)
class Note:
    """What the annotator made of a row, as far as it got."""

    decision: str
    """Empty where it made none."""
    before: str
    """The candidate's name."""
    before_right: bool | None
    """None where the truth is not known."""
    title: str
    """The entity in the annotator's words."""
    resolution: str
    confidence: float | None
    rescued: bool
    description: str
    rationale: str
    questions: list[tuple[str, str, str | None]]
    """Question, answer, and the name of the entity that the answer is linked to."""
    prompts: list[str]
    attempts: int


@dataclass(frozen=True)
class Sample:
    """One row, ready to show."""

    row: dict
    """The row as stored."""
    entity: Named | None
    """The chosen entity, or the best one of a row that was rejected later."""
    thumbnail: Thumbnail
    caption: list[tuple[str, bool]]
    """Pieces of the caption, and whether each is a mention."""
    candidates: list[Candidate]
    more_candidates: int
    truth: list[str] | None
    """Names of the entities in the picture; None where they are not known."""
    right: bool | None
    """Whether the label is right; None without label or truth."""
    link: str | None
    """The address of the page or image, where it is a plain web address."""
    note: Note | None
    """None where no annotator was asked."""


def make_samples(
    rows: Sequence[dict], source: Source, limits: Limits, entities: Mapping[str, Named], budget: int = THUMBNAIL_BUDGET
) -> dict[str, Sample]:
    """Prepare stored rows for showing.

    Args:
        rows: rows of `schema.LABEL` or `schema.REJECT`.
        source: gives the image bytes.
        limits: what images are accepted.
        entities: what entities are called, by id; an id that is missing is shown as it is.
        budget: bytes that all thumbnails share.

    Returns:
        Row id -> sample.
    """
    by_id = {row["row_id"]: row for row in rows}
    pictures = make_thumbnails([row["image"] for row in by_id.values()], source, limits, budget)
    return {row_id: _sample(row, picture, entities) for (row_id, row), picture in zip(by_id.items(), pictures)}


def entity_ids(rows: Sequence[dict]) -> list[str]:
    """Return the ids of all entities that `rows` speak of, sorted."""
    found = {row["entity_id"] for row in rows} | {one for row in rows for one in row["truth"] or ()}
    found |= {candidate["entity_id"] for row in rows for candidate in row["candidates"] or ()}
    notes = [row["annotation"] for row in rows if row["annotation"]]
    found |= {note["candidate_id"] for note in notes}
    found |= {pair["answer_id"] for note in notes for pair in note["questions"] or ()}
    return sorted(found - {None})


def make_thumbnails(
    refs: Sequence[dict | None],
    source: Source,
    limits: Limits,
    budget: int = THUMBNAIL_BUDGET,
    side: int = THUMBNAIL_SIDE,
) -> list[Thumbnail]:
    """Read, decode and shrink images, a few at a time.

    Args:
        refs: `schema.IMAGE_REF` values; None where a row has no image.
        source: gives the bytes.
        limits: what is accepted.
        budget: bytes that all thumbnails share; the picture quality gives way to it.
        side: pixels of the longer side, at most.

    Returns:
        One thumbnail an entry; an image that cannot be read or is refused becomes its reason.
    """
    share = budget // max(1, len(refs))
    result = [Thumbnail(None, "no image") for _ in refs]
    present = [number for number, ref in enumerate(refs) if ref is not None and ref["uri"] is not None]
    for start in range(0, len(present), _READ_AT_ONCE):
        numbers = present[start : start + _READ_AT_ONCE]
        for number, data in zip(numbers, _read([refs[number] for number in numbers], source)):
            result[number] = data if isinstance(data, Thumbnail) else _thumbnail(data, limits, share, side)
    return result


def _read(refs: Sequence[dict | None], source: Source) -> list[bytes | Thumbnail]:
    """Read image bytes; a source that is gone by now costs the pictures, not the report."""
    try:
        found = source.image_bytes([ref for ref in refs if ref is not None])
    except (OSError, RaylabError) as error:
        return [Thumbnail(None, f"source cannot be read: {error}"[:200])] * len(refs)
    return [Thumbnail(None, words(data)) if isinstance(data, Reason) else data for data in found]


def _thumbnail(data: bytes, limits: Limits, share: int, side: int) -> Thumbnail:
    from raylab.sources.images import ImageRefused, open_image

    try:
        image = open_image(data, limits, side)
    except ImageRefused as refused:
        return Thumbnail(None, words(refused.reason))
    encoded = base64.b64encode(_encode(image, share * 3 // 4, side)).decode("ascii")
    return Thumbnail(f"data:image/webp;base64,{encoded}")


def _encode(image: Image.Image, most: int, side: int) -> bytes:
    """Return WebP bytes of the shrunk image, at the best of a few qualities that needs no more than `most` bytes."""
    image.thumbnail((side, side))
    data = b""
    for quality in (78, 60, 40, 20, 5):
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality, method=4)
        data = buffer.getvalue()
        if len(data) <= most:
            break
    return data


def _sample(row: dict, thumbnail: Thumbnail, entities: Mapping[str, Named]) -> Sample:
    entity = row["entity_id"]
    truth = row["truth"]
    named = Named(row["entity_name"] or entity or "") if row["entity_name"] or entity else None
    labelled = named is not None and not row.get("reject_reason")
    candidates = _candidates(row, entities)
    url = row["url"] or ""
    return Sample(
        row=row,
        entity=entities.get(entity, named),
        thumbnail=thumbnail,
        caption=mark_mentions(row["caption"], row["mentions"] or []) if (row["caption"] or "").strip() else [],
        candidates=candidates[:CANDIDATES_SHOWN],
        more_candidates=max(0, len(candidates) - CANDIDATES_SHOWN),
        truth=None if truth is None else [entities.get(one, Named(one)).title for one in truth],
        right=entity in truth if labelled and truth is not None else None,
        link=url if url.startswith(("https://", "http://")) else None,
        note=_note(row, entities) if row["annotation"] else None,
    )


def _note(row: dict, entities: Mapping[str, Named]) -> Note:
    note, truth = row["annotation"], row["truth"]
    before = note["candidate_id"]
    return Note(
        decision=note["decision"] or "",
        before=entities.get(before, Named(note["candidate_name"] or before or "")).title,
        before_right=None if truth is None or before is None else before in truth,
        title=note["title"] or "",
        resolution=note["resolution"] or "",
        confidence=note["confidence"],
        rescued=bool(note["rescued"]),
        description=note["description"] or "",
        rationale=note["rationale"] or "",
        questions=[
            (one["question"] or "", one["answer"] or "", _linked(one["answer_id"], entities))
            for one in note["questions"] or ()
        ],
        prompts=note["prompts"] or [],
        attempts=note["attempts"] or 0,
    )


def _linked(entity: str | None, entities: Mapping[str, Named]) -> str | None:
    return None if entity is None else entities.get(entity, Named(entity)).title


def _candidates(row: dict, entities: Mapping[str, Named]) -> list[Candidate]:
    """Return the row's candidates, an entity once, the chosen one first, then by the latest score that they have."""
    mentions, truth = row["mentions"] or [], row["truth"] or []

    def via(number: int | None) -> str:
        return mentions[number]["text"] or "" if number is not None and 0 <= number < len(mentions) else "whole caption"

    named = {
        one["entity_id"]: entities.get(one["entity_id"], Named(one["entity_id"])) for one in row["candidates"] or []
    }
    titles = collections.Counter(entity.title for entity in named.values())
    lines = [
        Candidate(
            entity_id=one["entity_id"],
            entity=named[one["entity_id"]],
            namesake=titles[named[one["entity_id"]].title] > 1,
            via=via(one["mention"]),
            source=one["source"],
            prior=one["prior"],
            link_score=one["link_score"],
            image_cosine=one["image_cosine"],
            image_score=one["image_score"],
            chosen=one["entity_id"] == row["entity_id"],
            true=one["entity_id"] in truth,
        )
        for one in row["candidates"] or []
    ]
    lines.sort(key=lambda one: (not one.chosen, -(one.image_score or 0), -(one.link_score or 0)))
    return list({one.entity_id: one for one in reversed(lines)}.values())[::-1]


def mark_mentions(caption: str, mentions: Sequence[dict], shown: int = CAPTION_SHOWN) -> list[tuple[str, bool]]:
    """Cut a caption into pieces that are mentions and pieces that are not.

    Args:
        caption: the text.
        mentions: `schema.MENTION` values; they may overlap, and ends beyond the text are cut.
        shown: characters to keep, from a little before the first mention where that lies late.

    Returns:
        The pieces in order, an ellipsis where text was left out.
    """
    spans = sorted((max(0, one["start"] or 0), min(len(caption), one["end"] or 0)) for one in mentions)
    spans = [(start, end) for start, end in spans if start < end]
    begin = max(0, spans[0][0] - 40) if spans and spans[0][1] > shown else 0
    stop = min(len(caption), begin + shown)
    pieces, at = [("…", False)] if begin else [], begin
    for start, end in spans:
        start, end = max(start, at), min(end, stop)  # noqa: PLW2901 - the part not yet written
        if start < end:
            pieces += [(caption[at:start], False), (caption[start:end], True)]
            at = end
    pieces += [(caption[at:stop], False), ("…" if stop < len(caption) else "", False)]
    return [(text, marked) for text, marked in pieces if text]
