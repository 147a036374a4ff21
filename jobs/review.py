"""Let people judge a sample of a finished run's decisions, and measure the run by what they say.

    python jobs/review.py export --labels DIR --out tasks.json --format label-studio --rows 200 [--precision 0.95]
    python jobs/review.py import --labels DIR --reviews project-1.json --format label-studio
    python jobs/review.py export --labels DIR --out DIR2 --format fiftyone
    python jobs/review.py truth --labels DIR        # a rehearsal: the source's known truth judges

The last line of standard output is one JSON object: the files written, or the audit's figures, which lie in
audit.json beside the labels; report and card show them.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import tyro

from raylab.errors import RaylabError
from raylab.label.review import Command, run


def main(args: list[str]) -> int:
    """Run the job; return the exit status."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    config: Any = tyro.cli(Command, args=args, description=__doc__)
    try:
        done = run(config)
    except RaylabError as error:
        print(f"review: {error}", file=sys.stderr)
        return 2
    for step, figures in done.get("steps", {}).items():
        interval = f"{figures['low']} to {figures['high']}, {figures['judged']} judged"
        print(f"{step}: precision {figures['precision']} ({interval})")
    left_out = ("strata", "calibration", "decisions", "corrections") if "steps" in done else ()
    print(json.dumps({name: value for name, value in done.items() if name not in left_out}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
