"""Tell in seconds what would fail later: put this job's name before another job's line.

    python jobs/check.py                                                  the cluster alone
    python jobs/check.py label --source URI --kb URI --out URI [...]      and all that this labeling run needs
    python jobs/check.py train --recipe mofi_b16 --source URI --labels URI --kb URI --out URI [...]
    python jobs/check.py tune --recipe git_large --samples 64 --source URI --labels URI --kb URI --out URI [...]
    python jobs/check.py evaluate --model URI --data URI --out URI --workers 8 [...]

On a cluster: ``ray job submit --working-dir . -- python jobs/check.py label ...``. With ``--json`` the report is one
JSON object. The exit status is 1 where a check fails, 2 where the line itself is wrong.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from typing import Any

from raylab.config import parse
from raylab.errors import RaylabError, nearest
from raylab.preflight.base import Level
from raylab.preflight.table import report, table

JOBS = {
    "label": ("raylab.recipes", "LABEL", "i2e"),
    "train": ("raylab.recipes.train", "TRAIN", "mofi_b16"),
    "evaluate": ("raylab.recipes.evaluate", "EVALUATE", "standard"),
}
"""Jobs whose lines are understood: where its recipes are, and the one without --recipe."""


def main(args: list[str]) -> int:
    """Run the checks; return the exit status."""
    started = time.perf_counter()
    line = [arg for arg in args if arg != "--json"]
    if line in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    try:
        config = read(line) if line else None
        from raylab.preflight.run import Asked, asked_of, run

        findings = run(asked_of(config) if config else Asked())
    except RaylabError as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    found = report(findings, time.perf_counter() - started)
    print(json.dumps(found) if "--json" in args else table(findings))
    return int(found["level"] == Level.FAIL)


def read(line: list[str]) -> Any:
    """Return the config of a job's line."""
    job, *flags = line
    if job == "tune":
        from raylab.recipes.tune import parse_sweep

        return parse_sweep(flags)
    if job not in JOBS:
        known = [*JOBS, "tune"]
        raise RaylabError(f"There is no job {job!r} to check.{nearest(job, known)} Known: {', '.join(known)}.")
    module, recipes, default = JOBS[job]
    return parse(getattr(import_module(module), recipes), default, flags, f"Check what {job} would need.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
