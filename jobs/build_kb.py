"""Build a knowledge base from a Wikidata dump, from catalogues, or from both.

    python jobs/build_kb.py --out kb --catalogues miniworld://
    python jobs/build_kb.py --out kb --catalogues brands.jsonl.gz places.csv --type-edges p279.jsonl.gz
    python jobs/build_kb.py --out kb --dump wikidata-20260105-all.json.bz2 --popularity pageviews.tsv

The last line on stdout is one JSON object: entities, aliases, edges, bad, dropped, seconds, out.
"""

from __future__ import annotations

import json
import sys
import time

import tyro

from raylab.errors import RaylabError
from raylab.kb.build import BuildConfig
from raylab.kb.run import run


def main() -> int:
    """Parse, build, print the summary; 2 for what the user can put right."""
    config = tyro.cli(BuildConfig, description=__doc__)
    start = time.monotonic()
    try:
        info = run(config)
    except RaylabError as error:
        print(error, file=sys.stderr)
        return 2
    for source in info.sources:
        print(f"{source['path']}: {source['rows']:,} of {source['lines']:,} lines used", file=sys.stderr)
        for what in ("bad", "mended", "dropped"):
            for reason, count in source[what].items():
                print(f"    {what} {count:,} x {reason}", file=sys.stderr)
        for number, reason, text in source["samples"]:
            print(f"    line {number}: {reason}: {text[:80]}", file=sys.stderr)
    if not info.entities:
        print("WARNING: the knowledge base is empty: see above why no line was used", file=sys.stderr)
    bad = sum(sum(source["bad"].values()) for source in info.sources)
    counts = {"entities": info.entities, "aliases": info.aliases, "edges": info.edges}
    summary = counts | {"bad": bad, "dropped": info.dropped}
    print(json.dumps(summary | {"seconds": round(time.monotonic() - start, 1), "out": config.out}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
