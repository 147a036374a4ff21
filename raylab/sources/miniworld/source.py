"""The mini-world as a source of pairs: ``miniworld://?rows=2000&seed=7``."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from functools import cache
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa

from raylab.errors import RaylabError, nearest
from raylab.schema import Reason
from raylab.sources.base import Shard, SourceConfig
from raylab.sources.miniworld import ASSETS
from raylab.sources.miniworld.samples import Sample, picture, sample
from raylab.sources.rows import Record, make_tables

SHARD_ROWS = 500
JPEG_QUALITY = 90
LICENCE = "CC0-1.0"
_DEFAULTS = {"rows": 2000, "seed": 7}
_RANGES = {"rows": (1, 10**9), "seed": (0, 2**32 - 1)}


def parse_uri(uri: str) -> dict[str, int]:
    """Return ``rows`` and ``seed`` as a ``miniworld://`` address gives them, or their defaults.

    Raises:
        RaylabError: an unknown key, a key given twice, a value that is no whole number or out of range.
    """
    parts = urlsplit(uri)
    if parts.scheme != "miniworld" or parts.netloc or parts.path.strip("/") or parts.fragment:
        raise RaylabError(f"{uri!r} is no mini-world address: write miniworld://?rows=2000&seed=7")
    settings: dict[str, int] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in _DEFAULTS:
            raise RaylabError(f"{uri!r}: unknown key {key!r}; known: rows, seed.{nearest(key, _DEFAULTS)}")
        if key in settings:
            raise RaylabError(f"{uri!r}: {key!r} is given twice")
        smallest, largest = _RANGES[key]
        if not (re.fullmatch(r"[0-9]{1,12}", value) and smallest <= int(value) <= largest):
            raise RaylabError(f"{uri!r}: {key}={value!r} must be a whole number from {smallest} to {largest}")
        settings[key] = int(value)
    return _DEFAULTS | settings


@cache
def world_version() -> str:
    """Return a digest of the code and tables that make the world: a resumed job must notice when its rows change."""
    made_by = sorted([*ASSETS.glob("entities/*.txt"), *ASSETS.glob("*.tsv"), *ASSETS.parent.glob("*.py")])
    digest = hashlib.blake2b(digest_size=8)
    for file in made_by:
        if not file.name.startswith("make_"):
            digest.update(file.read_bytes())
    return digest.hexdigest()


class MiniworldSource:
    """Pairs drawn from a seed, with known truth. Needs no file and no network."""

    def __init__(self, config: SourceConfig) -> None:
        settings = parse_uri(config.uri)
        self._rows, self._seed = settings["rows"], settings["seed"]
        self._config = config

    def shards(self) -> list[Shard]:
        """List shards of 500 rows, the last one shorter: longer worlds of one seed start with the same shards."""
        shards = []
        for start in range(0, self._rows, SHARD_ROWS):
            stop = min(start + SHARD_ROWS, self._rows)
            name = f"seed{self._seed}-{start:06d}-{stop:06d}"
            shards.append(Shard(name, f"miniworld://?seed={self._seed}", world_version(), stop - start))
        return shards

    def read(self, shard: Shard) -> Iterator[pa.Table]:
        """Yield `PAIR` tables of at most `chunk_rows` rows; `truth` holds the ids of the entities in the picture."""
        start, stop = (int(number) for number in shard.name.split("-")[-2:])
        samples = (sample(self._seed, index) for index in range(start, stop))
        return make_tables((self._record(row) for row in samples), shard, self._config)

    def _record(self, row: Sample) -> Record:
        key = f"{row.index:09d}"
        ref = row.image_ref
        url = f"https://miniworld.example/{self._seed}/{key}.jpg"
        image = (ref["uri"], ref["offset"], ref["size"])
        return Record(key, row.caption.text, image, url, LICENCE, truth=list(row.entity_ids))

    def image_bytes(self, refs: Sequence[dict]) -> list[bytes | Reason]:
        """Draw the pictures behind `refs` as JPEG; a reference that leads elsewhere gives `Reason.MISSING_IMAGE`."""
        return [_jpeg(ref) for ref in refs]


def _jpeg(ref: dict) -> bytes | Reason:
    if not (ref["uri"] or "").startswith("miniworld://") or (ref["offset"] or 0) < 0:
        return Reason.MISSING_IMAGE
    buffer = io.BytesIO()
    picture(sample(parse_uri(ref["uri"])["seed"], ref["offset"] or 0)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
