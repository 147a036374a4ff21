"""Runs fault runs of `test_hosts` and prints as JSON what happened to which run, its seconds, whether it was equal.

.venv/bin/python tests/faults/record.py > bench/results/host_faults.json               # all twenty seeds
.venv/bin/python tests/faults/record.py 3 4 --after earlier.json > later.json          # these, beside earlier ones
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
SEEDS = 20


def runs(seeds: list[int]) -> list[dict[str, Any]]:
    """Run the tests of these seeds; return what each recorded, or what it failed of."""
    tests = [f"tests/faults/test_hosts.py::test_twenty_seeds[{seed}]" for seed in seeds]
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.xml"
        line = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "slow",
            "-o",
            "junit_family=legacy",
            f"--junit-xml={told}",
            *tests,
        ]
        subprocess.run(line, cwd=ROOT, stdout=sys.stderr, check=False)
        cases = list(ElementTree.parse(told).iter("testcase"))
    return [recorded(case) for case in cases if "[" in case.attrib.get("name", "")]  # one that was broken off has none


def recorded(case: ElementTree.Element) -> dict[str, Any]:
    """Return what one test recorded."""
    seed = int(case.attrib["name"].partition("[")[2].rstrip("]"))
    found = [one.attrib["value"] for one in case.iter("property") if one.attrib["name"] == "run"]
    if found:
        return {"seed": seed} | json.loads(found[0])
    words = [one.attrib.get("message", "")[:300] for one in case if one.tag in ("failure", "error", "skipped")]
    return {"seed": seed, "equal": False, "failed": words}


def main() -> None:
    """Run what is asked for and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=int, default=list(range(SEEDS)))
    parser.add_argument("--after", type=Path)
    asked = parser.parse_args()
    earlier = json.loads(asked.after.read_text())["runs"] if asked.after else []
    by_seed = {one["seed"]: one for one in [*earlier, *runs(asked.seeds)]}
    found = [by_seed[seed] for seed in sorted(by_seed)]
    result = {"equal": sum(one["equal"] for one in found), "of": len(found), "runs": found}
    result |= {"cpus": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps(result | {"versions": {name: version(name) for name in ("ray", "torch", "moto")}}, indent=1))


if __name__ == "__main__":
    main()
