"""The records that every room passes on, as Arrow schemas with a version.

A row enters as a *pair* and stays one row to the end. Every labeling step takes a table of such rows and returns **the
same rows in the same order**, with columns filled in; a row that must leave the flow gets a `Reason` in its `reject_*`
columns and travels on untouched, so that counts close by construction: rows in = labelled + rejected + failed.

    Pair ── mentions ── candidates ── link (text alone) ── entity (after the image was looked at)

`FLOW` is the schema of a row in flight; `LABEL` and `REJECT` are what the label store keeps of it.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA_VERSION = 2
"""Raised whenever a stored field changes its name, type or meaning; readers refuse other versions."""

VERSION_KEY = b"raylab_schema_version"


class Reason(enum.StrEnum):
    """Why a row left the flow. The value is what is stored, counted and shown."""

    # the source
    EMPTY_SHARD = "empty_shard"
    UNREADABLE_SHARD = "unreadable_shard"
    TRUNCATED_SHARD = "truncated_shard"
    BAD_ROW = "bad_row"
    DUPLICATE_KEY = "duplicate_key"
    MISSING_IMAGE = "missing_image"
    MISSING_CAPTION = "missing_caption"
    EMPTY_CAPTION = "empty_caption"
    CAPTION_TOO_LONG = "caption_too_long"
    CAPTION_NOT_TEXT = "caption_not_text"
    # the image
    IMAGE_UNREADABLE = "image_unreadable"
    IMAGE_EMPTY = "image_empty"
    IMAGE_TOO_MANY_BYTES = "image_too_many_bytes"
    IMAGE_FORMAT = "image_format"
    IMAGE_TOO_MANY_PIXELS = "image_too_many_pixels"
    IMAGE_TOO_SMALL = "image_too_small"
    IMAGE_TOO_MANY_FRAMES = "image_too_many_frames"
    IMAGE_CORRUPT = "image_corrupt"
    # the labeling steps
    NO_CANDIDATES = "no_candidates"
    UNKNOWN_ENTITY = "unknown_entity"
    LOW_SCORE = "low_score"
    LOW_MARGIN = "low_margin"
    EVAL_LEAK = "eval_leak"
    RARE_ENTITY = "rare_entity"
    # the annotator's answers
    ANSWER_EMPTY = "answer_empty"
    ANSWER_MALFORMED = "answer_malformed"
    ANSWER_TRUNCATED = "answer_truncated"
    ANSWER_REFUSED = "answer_refused"
    ANSWER_TOO_LONG = "answer_too_long"
    NOT_IDENTIFIED = "not_identified"
    LOW_CONFIDENCE = "low_confidence"
    PROMPT_TOO_LONG = "prompt_too_long"
    REQUEST_REFUSED = "request_refused"
    # not the row's own verdict: something broke while it was handled
    STEP_ERROR = "step_error"
    WORKER_CRASH = "worker_crash"
    ENGINE_CRASH = "engine_crash"

    @property
    def is_failure(self) -> bool:
        """Failures are counted as `failed`, everything else as `rejected`."""
        return self in (Reason.STEP_ERROR, Reason.WORKER_CRASH, Reason.ENGINE_CRASH)


IMAGE_REF = pa.struct(
    [
        pa.field("uri", pa.string()),  # the file that holds the bytes, or a miniworld:// address
        pa.field("offset", pa.int64()),  # first byte in that file; the row's number where the file is a Parquet file
        pa.field("size", pa.int64()),  # bytes; -1: to the end of the file
    ]
)
"""Where an image's bytes lie. Bytes themselves never travel: the step that needs them reads them."""

MENTION = pa.struct(
    [
        pa.field("start", pa.int32()),  # character offsets into the caption, end exclusive
        pa.field("end", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("label", pa.string()),  # the NER model's type, null for an alias match
        pa.field("source", pa.string()),  # "ner" | "alias" | "ner+alias"
    ]
)

CANDIDATE = pa.struct(
    [
        pa.field("entity_id", pa.string()),
        pa.field("mention", pa.int32()),  # index into the row's mentions; -1: the whole caption
        pa.field("source", pa.string()),  # "alias" | "partial" | "neighbour"
        pa.field("prior", pa.float32()),  # p(entity | alias); for a neighbour, the cosine of name and caption
        pa.field("link_score", pa.float32()),  # probability after text-context disambiguation, within its mention
        pa.field("image_cosine", pa.float32()),  # image against "name: description"
        pa.field("image_score", pa.float32()),  # the same, calibrated against distractor entities, 0..1
    ]
)

MODEL = pa.struct(
    [
        pa.field("step", pa.string()),
        pa.field("model", pa.string()),  # ``id@revision`` of the model or knowledge base that the step used
    ]
)

QUESTION = pa.struct(
    [
        pa.field("question", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("answer_id", pa.string()),  # the entity that the answer names, null where it names none
    ]
)

ANNOTATION = pa.struct(
    [
        pa.field("decision", pa.string()),  # "verified" | "corrected"
        pa.field("candidate_id", pa.string()),  # the entity before the annotator spoke, null where it was not told
        pa.field("candidate_name", pa.string()),
        pa.field("candidate_score", pa.float32()),
        pa.field("rescued", pa.bool_()),  # the step select had rejected the row, and it was asked about all the same
        pa.field("title", pa.string()),  # the entity in the annotator's own words
        pa.field("resolution", pa.string()),  # "candidate" | "exact" | "normalised" | "close" | "unresolved"
        pa.field("resolution_score", pa.float32()),  # likeness of title and entity's name, 0..1
        pa.field("confidence", pa.float32()),  # the model's probability of its decision and title, null without it
        pa.field("description", pa.string()),  # what a describer saw, where the annotator reads instead of looking
        pa.field("rationale", pa.string()),
        pa.field("questions", pa.list_(QUESTION)),
        pa.field("prompts", pa.list_(pa.string())),  # call/version@hash of each prompt that was answered
        pa.field("attempts", pa.int32()),  # requests made for this row
        pa.field("prompt_tokens", pa.int64()),  # of all of them
        pa.field("answer_tokens", pa.int64()),
    ]
)
"""What a multimodal LLM made of a label (REW: arXiv 2410.23676, section 3)."""

_PAIR_FIELDS = [
    pa.field("row_id", pa.string(), nullable=False),
    pa.field("shard", pa.string(), nullable=False),  # the shard's name relative to the source
    pa.field("key", pa.string(), nullable=False),
    pa.field("url", pa.string()),
    pa.field("licence", pa.string()),
    pa.field("caption", pa.string()),
    pa.field("image", IMAGE_REF),
    pa.field("truth", pa.list_(pa.string())),  # ids of the entities in the picture, where the source knows them
]
_EVIDENCE_FIELDS = [
    pa.field("mentions", pa.list_(MENTION)),
    pa.field("candidates", pa.list_(CANDIDATE)),
    pa.field("link_entity_id", pa.string()),  # the best entity from the text alone
    pa.field("link_score", pa.float32()),
    pa.field("models", pa.list_(MODEL)),
    pa.field("annotation", ANNOTATION),
]
_ENTITY_FIELDS = [
    pa.field("entity_id", pa.string()),
    pa.field("entity_name", pa.string()),
    pa.field("score", pa.float32()),  # calibrated, 0..1
    pa.field("margin", pa.float32()),  # to the runner-up, in the same unit
    pa.field("leak_cosine", pa.float32()),  # to the nearest evaluation image; null without leak control
]
_REJECT_FIELDS = [
    pa.field("reject_step", pa.string()),
    pa.field("reject_reason", pa.string()),  # a Reason
    pa.field("reject_detail", pa.string()),
]


def _schema(*groups: list[pa.Field]) -> pa.Schema:
    return pa.schema(
        [field for group in groups for field in group], metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()}
    )


PAIR = _schema(_PAIR_FIELDS, _REJECT_FIELDS)
"""What a source yields. A row that is already refused carries its reason."""

FLOW = _schema(_PAIR_FIELDS, _EVIDENCE_FIELDS, _ENTITY_FIELDS, _REJECT_FIELDS)
"""A row in flight: everything that a step may read or fill in."""

LABEL = _schema(_PAIR_FIELDS, _ENTITY_FIELDS, _EVIDENCE_FIELDS)
REJECT = _schema(_PAIR_FIELDS, _REJECT_FIELDS, _ENTITY_FIELDS, _EVIDENCE_FIELDS)

ENTITY = _schema(
    [
        pa.field("id", pa.string(), nullable=False),  # a Wikidata QID, or a local id such as "mw:signal-lima"
        pa.field("title", pa.string(), nullable=False),
        pa.field("aliases", pa.list_(pa.string())),
        pa.field("description", pa.string()),
        pa.field("summary", pa.string()),
        pa.field("types", pa.list_(pa.string())),  # P31 closed over P279
        pa.field("popularity", pa.float32()),  # page views, PageRank or the like; only its order and ratios matter
    ]
)


def row_id(shard: str, key: str, occurrence: int = 0) -> str:
    """Return the row's id: 32 hex digits that depend on the shard's relative name and the row's key alone.

    `occurrence` tells rows of one shard apart that share a key (0 for the first).
    """
    text = f"{shard}\x1f{key}\x1f{occurrence}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def widen(pairs: pa.Table) -> pa.Table:
    """Return `pairs` with every column of `FLOW`, missing ones null, extra ones kept at the end."""
    columns = {
        field.name: pairs[field.name].cast(field.type)
        if field.name in pairs.column_names
        else pa.nulls(pairs.num_rows, field.type)
        for field in FLOW
    }
    extra = {name: pairs[name] for name in pairs.column_names if name not in columns}
    return pa.table(columns | extra)


def alive(batch: pa.Table) -> pa.ChunkedArray:
    """Boolean mask, one per row: still in the flow."""
    return pc.is_null(batch["reject_reason"])


def set_column(batch: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return `batch` with column `name` replaced, or appended where it is new."""
    index = batch.schema.get_field_index(name)
    return batch.append_column(name, values) if index < 0 else batch.set_column(index, name, values)


def reject(
    batch: pa.Table, step: str, reasons: Sequence[Reason | None], details: Sequence[str | None] | None = None
) -> pa.Table:
    """Mark the rows whose entry in `reasons` is not None; rows that had left before keep their first reason.

    Args:
        batch: rows in flight.
        step: the name of the step that speaks.
        reasons: one entry a row.
        details: one entry a row: the concrete cause, cut to 500 characters.

    Raises:
        ValueError: if a length is not the batch's.
    """
    details = [None] * len(reasons) if details is None else details
    if not len(reasons) == len(details) == batch.num_rows:
        raise ValueError(f"{len(reasons)} reasons and {len(details)} details for {batch.num_rows} rows")
    mask = pa.array([reason is not None for reason in reasons], pa.bool_())
    mask = pc.and_(alive(batch), mask)
    new = {
        "reject_step": pa.array([step] * batch.num_rows, pa.string()),
        "reject_reason": pa.array([None if reason is None else reason.value for reason in reasons], pa.string()),
        "reject_detail": pa.array([None if text is None else text[:500] for text in details], pa.string()),
    }
    for name, values in new.items():
        batch = set_column(batch, name, pc.if_else(mask, values, batch[name]))
    return batch


def check_version(schema: pa.Schema, what: str) -> None:
    """Raise `RaylabError` unless `schema` carries this package's schema version.

    Args:
        schema: as read from a file.
        what: the file's name, for the message.
    """
    from raylab.errors import RaylabError

    found = (schema.metadata or {}).get(VERSION_KEY, b"none").decode()
    if found != str(SCHEMA_VERSION):
        raise RaylabError(
            f"{what} has schema version {found}, this raylab reads version {SCHEMA_VERSION}: "
            "make it again with this version, or use the raylab that wrote it."
        )
