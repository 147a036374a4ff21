"""The input, cut into the segments that are read, labelled and committed as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raylab.config import fingerprint, to_dict
from raylab.label.isolate import Clock
from raylab.label.plan import NOT_IN_LABELS, LabelConfig
from raylab.label.store import number
from raylab.schema import widen
from raylab.sources.base import Shard, Source


@dataclass(frozen=True)
class Segment:
    """A run of consecutive shards."""

    index: int
    shards: tuple[Shard, ...]


def split(shards: Sequence[Shard], per_segment: int) -> list[Segment]:
    """Cut the shards into segments of `per_segment` shards, in order."""
    starts = range(0, len(shards), per_segment)
    return [Segment(i, tuple(shards[start : start + per_segment])) for i, start in enumerate(starts)]


def read_segment(source: Source, segment: Segment) -> Iterator[pa.Table]:
    """Yield the segment's rows as numbered `FLOW` tables; the very last row carries the segment's row count."""
    first = 0
    held: pa.Table | None = None
    for chunk in _timed(source, segment.shards):
        if held is not None:
            yield number(held, segment.index, first, None)
            first += held.num_rows
        held = chunk
    if held is not None:
        yield number(held, segment.index, first, first + held.num_rows)


def _timed(source: Source, shards: Sequence[Shard]) -> Iterator[pa.Table]:
    """Yield the rows of some shards; what reading them took stands in their columns, as a step's time does."""
    clock = Clock()
    for shard in shards:
        for chunk in source.read(shard):
            if chunk.num_rows:
                yield clock.share(widen(chunk), "source")
                clock = Clock()


def identity(config: LabelConfig, segments: Sequence[Segment], kb_fingerprint: str) -> dict[str, Any]:
    """Return what decides the labels: the config's fields that matter, the input, the knowledge base's fingerprint."""
    decisive = {key: value for key, value in to_dict(config).items() if key not in NOT_IN_LABELS}
    shards = [[shard.name, shard.version, shard.size] for segment in segments for shard in segment.shards]
    return {
        "config": decisive,
        "input": {"shards": len(shards), "fingerprint": fingerprint(shards)},
        "kb": kb_fingerprint,
    }
