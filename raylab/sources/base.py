"""What a source of pairs is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import pyarrow as pa
import tyro

from raylab.schema import Reason


@dataclass(frozen=True)
class Columns:
    """The names of the columns (or JSON keys) to read. Key, URL and licence may be absent."""

    image: str = "image"
    """Image bytes, a struct with `bytes`, or a path relative to the table's file."""
    caption: str = "caption"
    """The alt-text."""
    key: str = "key"
    """Names the row within its shard; without it, the row's number does."""
    url: str = "url"
    """Where the image came from."""
    licence: str = "license"
    """Under which licence."""


@dataclass(frozen=True)
class Limits:
    """What is accepted from the web."""

    max_caption_chars: int = 10_000
    """Longer captions are refused: they are pages, not alt-texts."""
    max_image_bytes: int = 64 * 2**20
    """Larger files are not read."""
    max_image_pixels: int = 128 * 10**6
    """Larger pictures, by their header, are not decoded."""
    max_image_frames: int = 1_000
    """Longer animations are refused; of the others the first frame counts."""
    min_image_side: int = 8
    """Smaller pictures, in pixels, show nothing (spacers, trackers)."""


@dataclass(frozen=True)
class SourceConfig:
    """Where pairs come from and how they are read."""

    uri: Annotated[str, tyro.conf.arg(aliases=["--source"])] = "miniworld://?rows=2000&seed=7"
    """A miniworld:// address, a file, a folder or a glob; local, or any filesystem that pyarrow or fsspec knows."""
    columns: Columns = field(default_factory=Columns)
    limits: Limits = field(default_factory=Limits)
    chunk_rows: int = 512
    """Rows in one table that the source yields: the unit that travels through the steps."""


@dataclass(frozen=True)
class Shard:
    """A piece of the input that is read by one task, start to end."""

    name: str
    """Relative to the source, and stable: row ids hang on it. Example: ``part-003.tar``, ``a/b.parquet#0-4``."""
    uri: str
    """What to open."""
    version: str
    """Size and modification time or etag: goes into the input fingerprint, so that a resumed job notices a change."""
    size: int
    """Bytes, or rows for a made source: used to balance segments only."""


class Source(Protocol):
    """A source of pairs. Cheap to construct and to pickle; opens nothing before it is asked."""

    def shards(self) -> list[Shard]:
        """List the shards in a fixed order.

        Raises:
            RaylabError: nothing matches, a needed column is missing (the message lists those present), no access.
        """
        ...

    def read(self, shard: Shard) -> Iterator[pa.Table]:
        """Yield `PAIR` tables of at most `chunk_rows` rows, in file order.

        Bad content never raises: it becomes a row with a reason (an empty or unreadable shard becomes one such row, so
        each shard yields at least one row). Image bytes are not read.
        """
        ...

    def image_bytes(self, refs: Sequence[dict]) -> list[bytes | Reason]:
        """Return the bytes behind each `schema.IMAGE_REF` value, or the reason why there are none.

        References into one file are read together.
        """
        ...
