"""How fast the text model of DeViSE is trained: gensim's skip-gram, hierarchical softmax, window 20.

    .venv/bin/python bench/words_speed.py [path of shared/data]

Texts: titles, descriptions and summaries of Open English WordNet's and KGTK's entities there. Each of 100 and 500
dimensions is trained with one thread and with two, one pass each.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from raylab.kb.build import BuildConfig, build
from raylab.kb.words_build import WordsConfig, build_words

CATALOGUES = ("kgtk_arnold", "oewn_wikidata")


def main(data: str = "../shared/data") -> None:
    """Build the knowledge base, train, print the JSON."""
    files = sorted(path for name in CATALOGUES for path in Path(data, "wikidata_catalog").glob(f"{name}*"))
    with tempfile.TemporaryDirectory() as folder:
        kb = f"{folder}/kb"
        entities = build(BuildConfig(catalogues=tuple(map(str, files)), out=kb)).entities
        rounds = []
        for dim in (100, 500):
            for threads in (1, 2):
                about = build_words(WordsConfig(kb=kb, out=f"{folder}/words", dim=dim, threads=threads))
                rounds.append({name: about[name] for name in ("dim", "threads", "words", "tokens", "words_a_second")})
                print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    result = {
        "entities": entities,
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("gensim", "numpy")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
