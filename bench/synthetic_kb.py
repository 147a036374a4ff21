"""Write a made-up catalogue as big as English Wikipedia: names drawn by Zipf's law from words that captions really use.

    .venv/bin/python bench/synthetic_kb.py --out /some/folder/synthetic.jsonl --entities 6100000

With 6.1 million entities it holds about 20 million distinct surfaces. Its words and some of its names come from the
captions of ../shared/data/alttext_10k where that is there (so captions meet the index as in life, and harder: nearly
every word of theirs names something), the rest from made-up words. Streams: memory does not grow with the size.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tyro

CAPTIONS = Path(__file__).parents[2] / "shared" / "data" / "alttext_10k" / "urls_and_alttext.parquet"
WORDS = 400_000
NAMES = 3.1
"""Names of an entity besides its title, on average."""
LENGTHS = (0.08, 0.47, 0.30, 0.15)
"""Shares of names of one to four words."""
FROM_CAPTIONS = 0.02
"""Share of names that are word for word a phrase of a caption."""
LOWER = 0.3
"""Share of names written without capitals, as Wikidata writes those of things: then captions in small letters match."""
PERSONS = 0.2
CLASSES = 300
CHUNK = 50_000


def captions() -> list[str]:
    """Return the real captions, or none."""
    return pq.read_table(CAPTIONS, columns=["TEXT"])["TEXT"].to_pylist() if CAPTIONS.exists() else []


def vocabulary(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    """Return `WORDS` words, the captions' own first and by falling count."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in re.findall(r"[^\W\d_]+", text):
            counts[word.capitalize()] = counts.get(word.capitalize(), 0) + 1
    words = sorted(counts, key=lambda word: (-counts[word], word))
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "in", "ou")]
    while len(words) < WORDS:
        parts = rng.integers(0, len(syllables), (WORDS, 4))
        lengths = rng.integers(2, 5, WORDS)
        made = ("".join(syllables[p] for p in row[:n]).capitalize() for row, n in zip(parts.tolist(), lengths.tolist()))
        words = list(dict.fromkeys([*words, *made]))
    return np.array(words[:WORDS], object)


def phrases(texts: list[str]) -> list[str]:
    """Return the runs of two to four words of the captions, capitalised."""
    found: set[str] = set()
    for text in texts:
        words = [word.capitalize() for word in re.findall(r"[^\W\d_]+", text)]
        for size in (2, 3, 4):
            found.update(" ".join(words[i : i + size]) for i in range(len(words) - size + 1))
    return sorted(found)


def zipf(rng: np.random.Generator, size: int, ranks: int) -> np.ndarray:
    """Draw ranks 0..ranks-1 with probability about 1 / (rank + 10)."""
    return ((10 + ranks) / 10) ** rng.random(size) * 10 - 10


def lines(entities: int, seed: int = 0) -> Iterator[str]:
    """Yield the catalogue's lines, `CHUNK` entities joined at a time."""
    rng = np.random.default_rng(seed)
    texts = captions()
    words, runs = vocabulary(texts, rng), phrases(texts) or ["Made Up Phrase"]
    classes = [f"Q{90_000 + number}" for number in range(CLASSES)]
    for start in range(0, entities, CHUNK):
        count = min(CHUNK, entities - start)
        rng = np.random.default_rng((seed, start))
        names_per = 1 + np.minimum(rng.poisson(NAMES, count), 20)
        total = int(names_per.sum())
        draws = words[zipf(rng, total * 4, WORDS).astype(np.int64)].reshape(total, 4).tolist()
        lengths = (1 + rng.choice(4, total, p=LENGTHS)).tolist()
        names = [" ".join(row[:length]) for row, length in zip(draws, lengths)]
        for at in np.flatnonzero(rng.random(total) < FROM_CAPTIONS).tolist():
            names[at] = runs[int(rng.integers(len(runs)))]
        for at in np.flatnonzero(rng.random(total) < LOWER).tolist():
            names[at] = names[at].lower()
        about = words[zipf(rng, count * 6, WORDS).astype(np.int64)].reshape(count, 6).tolist()
        types = zipf(rng, count * 2, CLASSES).astype(np.int64).reshape(count, 2).tolist()
        person = (rng.random(count) < PERSONS).tolist()
        popularity = (rng.pareto(1.0, count) + 0.1).clip(max=1e7).tolist()  # views by Zipf's law
        rows, at = [], 0
        for i in range(count):
            stop = at + int(names_per[i])
            rows.append(
                {
                    "id": f"Q{1_000_000 + start + i}",
                    "title": names[at],
                    "aliases": names[at + 1 : stop],
                    "description": " ".join(about[i]).lower(),
                    "types": ["Q5"] if person[i] else [classes[kind] for kind in types[i]],
                    "popularity": round(popularity[i], 3),
                }
            )
            at = stop
        yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(out: Path, entities: int = 6_100_000, seed: int = 0) -> None:
    """Write the catalogue to `out` unless it is there.

    Args:
        out: a .jsonl file.
        entities: how many.
        seed: of everything drawn.
    """
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    part = out.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        for chunk in lines(entities, seed):
            file.write(chunk)
    part.rename(out)
    print(f"wrote {out} in {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    tyro.cli(write)
