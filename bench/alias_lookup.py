"""Alias matching against its peers: captions a second on one core, memory of a worker, on the same surfaces.

    .venv/bin/python bench/alias_lookup.py --kb <a knowledge base's folder>

Each contender finds names in the captions of ../shared/data/alttext_10k and fetches the entities that own them:
raylab's mapped index; a plain dict of folded surfaces; marisa-trie; spaCy's PhraseMatcher; and the SQLite lookup of
spacy-entity-linker, where that is installed. Each lives in a process of its own; rounds are interleaved and timed in
CPU seconds. Memory is what a process holds of its own (anonymous pages) after loading, less that after its imports.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from raylab.kb.catalog import Catalog

CAPTIONS = Path(__file__).parents[2] / "shared" / "data" / "alttext_10k" / "urls_and_alttext.parquet"
PHRASE_WORDS = 8
BATCH = 1_000
WORD = re.compile(r"\w+")

Finder = Callable[[list[str]], int]
"""Finds the names in some captions and returns how many."""


@dataclass(frozen=True)
class Config:
    """What is measured."""

    kb: str
    """A knowledge base's folder."""
    rounds: int = 5
    peers: tuple[str, ...] = ("dict", "marisa_trie", "spacy_phrase_matcher", "spacy_entity_linker")
    """Those beside raylab; leave some out where the knowledge base is too big for them."""
    out: str | None = None
    """Where to keep the JSON."""


def surfaces(kb: str) -> dict[str, list[int]]:
    """Return lower-case words of each surface, joined by single spaces -> rows of the entities that own it."""
    entities = Catalog.open(kb).entities
    owners: dict[str, list[int]] = {}
    for row, (title, aliases) in enumerate(zip(entities["title"].to_pylist(), entities["aliases"].to_pylist())):
        for name in {title, *aliases}:
            owners.setdefault(" ".join(WORD.findall(name.lower())), []).append(row)
    owners.pop("", None)
    return owners


def raylab(kb: str) -> Finder:
    """Ours: batches of captions."""
    catalog = Catalog.open(kb)

    def find(captions: list[str]) -> int:
        found = 0
        for start in range(0, len(captions), BATCH):
            matches = catalog.aliases.match(pa.array(captions[start : start + BATCH]))
            catalog.aliases.candidates(matches.alias)
            found += len(matches.row)
        return found

    return find


def longest_runs(captions: list[str], owners: Callable[[str], Any]) -> int:
    """Take the longest run of words that `owners` knows, left to right."""
    found = 0
    for caption in captions:
        words = WORD.findall(caption.lower())
        at = 0
        while at < len(words):
            for size in range(min(PHRASE_WORDS, len(words) - at), 0, -1):
                if owners(" ".join(words[at : at + size])):
                    found += 1
                    at += size
                    break
            else:
                at += 1
    return found


def plain_dict(kb: str) -> Finder:
    """Return a finder on a dict of lists."""
    owners = surfaces(kb)
    return lambda captions: longest_runs(captions, owners.get)


def marisa(kb: str) -> Finder:
    """Return a finder on a marisa-trie that asks for all prefixes at each word."""
    import marisa_trie

    owners = surfaces(kb)
    trie = marisa_trie.RecordTrie("<I", ((name, (row,)) for name, rows in owners.items() for row in rows))
    del owners

    def find(captions: list[str]) -> int:
        found = 0
        for caption in captions:
            text = " ".join(WORD.findall(caption.lower()))
            at = 0
            while at < len(text):
                rest = text[at:]
                whole = [name for name in trie.prefixes(rest) if len(name) == len(rest) or rest[len(name)] == " "]
                if whole:
                    trie[whole[-1]]
                    found += 1
                step = len(whole[-1]) if whole else rest.find(" ")
                at = at + step + 1 if step >= 0 else len(text)
        return found

    return find


def phrase_matcher(kb: str) -> Finder:
    """Return a finder on spaCy's PhraseMatcher, lower case, longest spans."""
    import spacy
    from spacy.matcher import PhraseMatcher
    from spacy.util import filter_spans

    nlp = spacy.blank("en")
    tokenizer: Any = nlp.tokenizer
    owners = surfaces(kb)
    matcher = PhraseMatcher(nlp.vocab, attr="LOWER")
    matcher.add("name", list(tokenizer.pipe(owners)))

    def find(captions: list[str]) -> int:
        found = 0
        for doc in tokenizer.pipe(captions):
            spans = filter_spans(matcher(doc, as_spans=True))
            found += sum(owners.get(" ".join(WORD.findall(span.text.lower()))) is not None for span in spans)
        return found

    return find


def entity_linker(kb: str) -> Finder:
    """Return a finder on the lookup of spacy-entity-linker, in its own SQLite layout, its cache cleared each round."""
    from spacy_entity_linker.DatabaseConnection import WikidataQueryController

    folder = tempfile.TemporaryDirectory()
    connection = sqlite3.connect(Path(folder.name) / "kb.db")
    connection.execute("CREATE TABLE aliases (item_id INTEGER, en_alias TEXT, en_alias_lowercase TEXT)")
    connection.execute("CREATE TABLE joined (item_id INTEGER PRIMARY KEY, en_label, en_description, views, inlinks)")
    rows = ((row, name, name) for name, rows in surfaces(kb).items() for row in rows)
    connection.executemany("INSERT INTO aliases VALUES (?, ?, ?)", rows)
    titles = Catalog.open(kb).titles.to_pylist()
    connection.executemany("INSERT INTO joined VALUES (?, ?, '', 0, 0)", enumerate(titles))
    connection.execute("CREATE INDEX by_alias ON aliases (en_alias_lowercase)")
    connection.commit()
    lookup = WikidataQueryController.__new__(WikidataQueryController)
    lookup.cache = {"entity": {}, "chain": {}, "name": {}}
    lookup.conn = connection

    def find(captions: list[str]) -> int:
        assert folder.name  # the file lives as long as this function
        lookup.clear_cache()
        return longest_runs(captions, lookup.get_entities_from_alias)

    return find


CONTENDERS: dict[str, tuple[Callable[[str], Finder], str]] = {
    "raylab": (raylab, "pyarrow"),
    "dict": (plain_dict, "pyarrow"),
    "marisa_trie": (marisa, "marisa_trie"),
    "spacy_phrase_matcher": (phrase_matcher, "spacy"),
    "spacy_entity_linker": (entity_linker, "spacy_entity_linker"),
}


def own_memory() -> int:
    """Return the bytes that this process alone holds and cannot share: Linux's anonymous pages."""
    (line,) = (
        text for text in Path("/proc/self/smaps_rollup").read_text().splitlines() if text.startswith("Anonymous:")
    )
    return int(line.split()[1]) * 1024


def serve(name: str, kb: str, captions: list[str], pipe: Connection) -> None:
    """Load one contender, report its memory and time, then run a round for each message."""
    load, package = CONTENDERS[name]
    __import__(package)
    load_memory = own_memory()
    start = time.process_time()
    find = load(kb)
    gc.collect()
    find(captions[:100])
    pipe.send({"load_cpu_s": time.process_time() - start, "own_mb": (own_memory() - load_memory) / 2**20})
    while pipe.recv():
        start = time.process_time()
        found = find(captions)
        pipe.send({"captions_per_s": len(captions) / (time.process_time() - start), "found": found})


def main(config: Config) -> None:
    """Run all rounds and print the figures."""
    captions = [text for text in pq.read_table(CAPTIONS, columns=["TEXT"])["TEXT"].to_pylist() if text]
    spawn = get_context("spawn")
    names = ["raylab", *(name for name in config.peers if importlib.util.find_spec(CONTENDERS[name][1]))]
    pipes: dict[str, Connection] = {}
    loaded: dict[str, Any] = {}
    for name in names:
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(name, config.kb, captions, theirs), daemon=True).start()
        theirs.close()  # so that a contender that dies is noticed
        loaded[name] = pipes[name].recv()  # one after the other: loading is not what is compared
        print(name, {key: round(value, 1) for key, value in loaded[name].items()}, file=sys.stderr)
    rounds = []
    for _ in range(config.rounds):
        results = {}
        for name in names:
            pipes[name].send(True)
            results[name] = pipes[name].recv()
        rounds.append(results)
    for pipe in pipes.values():
        pipe.send(False)
    speed = {name: statistics.median(one[name]["captions_per_s"] for one in rounds) for name in names}
    for name in names:
        found = rounds[0][name]["found"]
        print(
            f"{name:22} {speed[name]:10,.0f} captions/s {loaded[name]['own_mb']:8,.0f} MB {found:7,} names",
            file=sys.stderr,
        )
    info = Catalog.open(config.kb).info
    report = {
        "ratio": speed["raylab"] / max(speed[name] for name in names[1:]) if names[1:] else None,
        "captions_per_s": speed,
        "memory": loaded,
        "entities": info.entities,
        "aliases": info.aliases,
        "captions": len(captions),
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "versions": {name: version(name) for name in ("numpy", "pyarrow", "spacy", "marisa-trie")},
    }
    if config.out:
        Path(config.out).write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
