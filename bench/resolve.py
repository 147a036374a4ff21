"""Resolve titles against a big knowledge base: speed, what is found, and what the index of close names takes.

    .venv/bin/python bench/resolve.py --kb /some/folder/kb --titles 4000

The knowledge base may be one of `synthetic_kb.py`. Titles are those of random entities with 10 letters or more, with
one kind of fault at a time: none, small letters, two letters swapped, one lost, one wrong; and made-up words that name
nothing. ``cpu_titles_per_s`` counts the seconds of the processor, for machines that others use too.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import tyro

from raylab.annotate.resolve import Resolver
from raylab.kb.catalog import Catalog
from raylab.kb.close import CloseIndex

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def faulty(title: str, kind: str, rng: np.random.Generator) -> str:
    """Return a title with a fault."""
    at = int(rng.integers(1, len(title) - 2))
    letter = LETTERS[int(rng.integers(26))]
    return {
        "none": title,
        "small": title.lower(),
        "swapped": title[:at] + title[at + 1] + title[at] + title[at + 2 :],
        "lost": title[:at] + title[at + 1 :],
        "wrong": title[:at] + letter + title[at + 1 :],
        "nonsense": " ".join("".join(rng.choice(list(LETTERS), 7)) for _ in range(2)),
    }[kind]


def main(kb: Path, titles: int = 4000, seed: int = 0, close_match: float = 0.88, rebuild: bool = True) -> None:
    """Measure.

    Args:
        kb: a knowledge base; its folder ``close`` is made again.
        titles: of each kind.
        seed: of the draws.
        close_match: as in `AnswersConfig`.
        rebuild: compute the index although it is there.
    """
    catalog = Catalog.open(kb)
    if rebuild:
        shutil.rmtree(kb / "close", ignore_errors=True)
    started = time.perf_counter()
    index = CloseIndex.open(catalog)
    result: dict = {"entities": len(catalog), "surfaces": len(index), "build_s": time.perf_counter() - started}
    result["build_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result["bytes"] = sum(path.stat().st_size for path in (kb / "close").iterdir())
    rng = np.random.default_rng(seed)
    names = catalog.take(rng.integers(0, len(catalog), 4 * titles), ("title",))["title"].to_pylist()
    names = [name for name in names if len(name) >= 10][:titles]
    resolver = Resolver(catalog, close_match)
    for kind in ("none", "small", "swapped", "lost", "wrong", "nonsense"):
        asked = [faulty(name, kind, rng) for name in names]
        started, used = time.perf_counter(), time.process_time()
        found = [one for start in range(0, len(asked), 256) for one in resolver(asked[start : start + 256])]
        seconds, used = time.perf_counter() - started, time.process_time() - used
        right = sum(one.name.lower() == name.lower() for one, name in zip(found, names))
        wrong = sum(one.entity_id is not None for one in found) - right
        result[kind] = {
            "titles_per_s": len(asked) / seconds,
            "cpu_titles_per_s": len(asked) / used,
            "right": right / len(asked),
            "other": wrong / len(asked),
            "how": dict(Counter(one.how for one in found)),
        }
        print(kind, result[kind], file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    tyro.cli(main)
