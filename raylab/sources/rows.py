"""From what a format reads to the rows that travel: one set of checks for every source."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from raylab.errors import RaylabError, nearest
from raylab.schema import IMAGE_REF, PAIR, Reason, row_id
from raylab.sources.base import Limits, Shard, SourceConfig
from raylab.sources.filesystem import file_name, is_utf8, resolve_inside

STEP = "source"
"""What `reject_step` says of rows that a source refuses."""

BROKEN_FILE = (OSError, EOFError, tarfile.TarError, zlib.error, pa.ArrowException)
"""What the readers of the formats raise for a file that they cannot read on."""

Refusal = tuple[Reason, str]
ImageRef = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a shard as its format reads it, unchecked."""

    key: str
    caption: object = None
    """Text; undecodable bytes as lone surrogates (``surrogateescape``). A list of texts makes one row for each."""
    image: ImageRef | None = None
    """Address, offset and size as in `schema.IMAGE_REF`."""
    url: str | None = None
    licence: str | None = None
    problem: Refusal | None = None
    """What the format itself found wrong."""
    truth: Sequence[str] | None = None
    """Ids of the entities in the picture, where the source knows them."""


def make_tables(records: Iterable[Record], shard: Shard, config: SourceConfig) -> Iterator[pa.Table]:
    """Yield `PAIR` tables of at most `config.chunk_rows` rows from the records of one shard.

    Each row leaves the flow for the first of these that is true: the format found something wrong; the key was there
    before in this shard; the image is missing; the caption is missing, empty, not text or too long. An empty shard
    gives one row with `EMPTY_SHARD`; one that cannot be opened gives one with `UNREADABLE_SHARD`; one that breaks off
    keeps the rows before the break and ends with one `TRUNCATED_SHARD`. No exception of `BROKEN_FILE` leaves this
    function.
    """
    rows = _Rows(shard, config)
    try:
        for record in records:
            for single in _one_row_per_caption(record):
                rows.add(single)
                if len(rows) >= config.chunk_rows:
                    yield rows.take()
    except BROKEN_FILE as error:
        reason = Reason.TRUNCATED_SHARD if rows.total else Reason.UNREADABLE_SHARD
        rows.add(Record(key="", problem=(reason, f"{shard.uri}: {type(error).__name__}: {error}")))
    if not rows.total:
        rows.add(Record(key="", problem=(Reason.EMPTY_SHARD, f"{shard.uri} holds no rows")))
    if len(rows):
        yield rows.take()


def _one_row_per_caption(record: Record) -> Iterator[Record]:
    """A list of captions becomes one row for each: ``key``, ``key#1``, ``key#2``..."""
    if not isinstance(record.caption, list):
        yield record
        return
    for index, caption in enumerate(record.caption or [None]):
        key = f"{record.key}#{index}" if index else record.key
        yield replace(record, key=key, caption=caption)


class _Rows:
    """Collects rows column by column."""

    def __init__(self, shard: Shard, config: SourceConfig) -> None:
        self.total = 0
        self._shard = shard
        self._limits = config.limits
        self._wants_image = bool(config.columns.image)
        self._seen: dict[str, int] = {}
        self._rows: list[tuple] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, record: Record) -> None:
        key = as_text(record.key)
        occurrence = self._seen.get(key, 0)
        self._seen[key] = occurrence + 1
        caption = self._shown(record.caption)
        problem = record.problem or self._problem(record, occurrence)
        reason, detail = problem or (None, None)
        self._rows.append(
            (
                row_id(self._shard.name, key, occurrence),
                key,
                None if record.url is None else as_text(record.url),
                None if record.licence is None else as_text(record.licence),
                caption,
                record.image,
                None if reason is None else STEP,
                None if reason is None else reason.value,
                None if detail is None else as_text(detail[:500]),
                record.truth,
            )
        )
        self.total += 1

    def _problem(self, record: Record, occurrence: int) -> Refusal | None:
        if occurrence:
            return Reason.DUPLICATE_KEY, f"key {record.key!r} for the {occurrence + 1}. time in {self._shard.name}"
        if self._wants_image and record.image is None:
            return Reason.MISSING_IMAGE, "no image is named"
        return check_caption(record.caption, self._limits)

    def _shown(self, caption: object) -> str | None:
        """The caption as the row keeps it: a refused one as far as it can be shown."""
        return as_text(caption[: self._limits.max_caption_chars]) if isinstance(caption, str) else None

    def take(self) -> pa.Table:
        """Return the collected rows as a table and start anew."""
        ids, keys, urls, licences, captions, images, steps, reasons, details, truths = zip(*self._rows)
        count = len(self._rows)
        self._rows = []
        columns = {
            "row_id": ids, "key": keys, "url": urls, "licence": licences, "caption": captions,
            "reject_step": steps, "reject_reason": reasons, "reject_detail": details, "truth": truths,
        }  # fmt: skip
        arrays = {name: pa.array(values, PAIR.field(name).type) for name, values in columns.items()}
        arrays["shard"] = pa.array([self._shard.name] * count, pa.string())
        arrays["image"] = _image_array(images)
        return pa.table([arrays[name] for name in PAIR.names], schema=PAIR)


def _image_array(images: tuple[ImageRef | None, ...]) -> pa.StructArray:
    known = [image or (None, None, None) for image in images]
    children = [pa.array(values, field.type) for values, field in zip(zip(*known), IMAGE_REF, strict=True)]
    missing = pa.array([image is None for image in images], pa.bool_())
    return pa.StructArray.from_arrays(children, fields=list(IMAGE_REF), mask=missing)


def check_caption(caption: object, limits: Limits) -> Refusal | None:
    """Return why `caption` cannot be used, or None."""
    if caption is None:
        return Reason.MISSING_CAPTION, "no caption"
    if not isinstance(caption, str):
        return Reason.CAPTION_NOT_TEXT, f"{type(caption).__name__} instead of text"
    if len(caption) > limits.max_caption_chars:
        return Reason.CAPTION_TOO_LONG, f"{len(caption)} characters, at most {limits.max_caption_chars}"
    if "\0" in caption:
        return Reason.CAPTION_NOT_TEXT, f"NUL at character {caption.index(chr(0))}"
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        return Reason.CAPTION_NOT_TEXT, f"not UTF-8 at character {error.start}"
    return None if caption.strip() else (Reason.EMPTY_CAPTION, "only white space")


def as_text(text: str) -> str:
    r"""Return `text` with what is not Unicode written out as ``\udcff``, so that Arrow can hold it."""
    return text.encode("utf-8", "backslashreplace").decode() if not text.isascii() else text


def parse_object(data: bytes) -> tuple[dict[str, Any], Refusal | None]:
    """Return the JSON object in `data`, or an empty one and why there is none; bad bytes stay as lone surrogates."""
    try:
        value = json.loads(data.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        return {}, (Reason.BAD_ROW, f"broken JSON: {error}: {data[:80]!r}")
    if not isinstance(value, dict):
        return {}, (Reason.BAD_ROW, f"a JSON {type(value).__name__} instead of an object")
    return value, None


def as_key(value: object) -> str | None:
    """Return a cell as text, or None where it is null or empty."""
    return None if value is None or value == "" else str(value)


def image_in_file(value: object, shard: Shard) -> tuple[ImageRef | None, Refusal | None]:
    """Return the reference to the image file that a table's cell names, or what is wrong with it.

    Args:
        value: the cell.
        shard: of the table; its `uri` ends with the table's name, and what stands before is the source's root.
    """
    if not isinstance(value, str) or not value:
        return None, None
    if "\0" in value or not is_utf8(value):
        return None, (Reason.MISSING_IMAGE, f"no path: {value[:200]!r}")
    uri = resolve_inside(value, shard.uri, shard.uri.removesuffix(file_name(shard.name)))
    if uri is None:
        return None, (
            Reason.MISSING_IMAGE,
            f"{value[:200]!r} lies outside the source's root; name a wider source, such as data/*/table.csv",
        )
    return (uri, 0, -1), None


def missing_column(uri: str, name: str, present: Iterable[str], option: str) -> RaylabError:
    """Return the error for a column that is not there, with those that are."""
    names = list(present)
    hint = nearest(name, names)
    return RaylabError(
        f"{uri}: no column {name!r} for the {option}; present: {', '.join(map(str, names)) or 'none'}.{hint} "
        f"Name it with the source's columns.{option}."
    )
