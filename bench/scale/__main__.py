"""Measures what `raylab/scale` reckons with, and holds its predictions against real labeling runs.

    .venv/bin/python bench/scale calibrate > rates.json      # small runs on one core and two: steps and fixed costs
    .venv/bin/python bench/scale check rates.json [CASE]     # runs of other rows on 1 and 2 cores, on 1 to 3 nodes
    .venv/bin/python bench/scale model                       # both
    .venv/bin/python bench/scale cores                       # rows/s on two cores against one, interleaved rounds
    .venv/bin/python bench/scale parts                       # tars, CLIP on a core, bytes a row: seconds
    .venv/bin/python bench/scale                             # all of them

Runs are `jobs/label.py --recipe miniworld`, whole processes, pinned to cores by taskset. Rates come from rows of seeds
301 and 302, the runs that are predicted have seed 311 and other numbers of rows. Several nodes are raylets of one
cluster on this machine, each pinned to a core; three of them share two cores, and are modelled so. Asked: errors below
20 %; 1.8 x on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from calibrate import calibrate
from check import CHECKED, check
from cores import two_cores
from parts import parts
from runs import made_kb


def main() -> None:
    """Measure what is asked for and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="?", default="all", choices=("calibrate", "check", "model", "cores", "parts", "all")
    )
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--rows", type=int, default=CHECKED[0])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kb = made_kb(folder)
        result: dict[str, Any] = {}
        if asked.what in ("calibrate", "model", "all"):
            result |= calibrate(folder, kb)
        if asked.what in ("check", "model", "all"):
            found = json.loads(Path(asked.rest[0]).read_text()) if asked.rest else result
            result |= {"asked": 0.2, "checks": check(folder, kb, found, asked.rest[1:])}
        if asked.what in ("cores", "all"):
            result |= {"two_cores": two_cores(folder, kb, asked.rows, asked.rounds)}
        if asked.what in ("parts", "all"):
            result |= {"parts": parts(folder, kb)}
    result |= {"cpus": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps(result | {"versions": {name: version(name) for name in ("ray", "torch", "spacy", "pyarrow")}}))


if __name__ == "__main__":
    main()
