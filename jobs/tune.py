"""Sweep learning rates, label smoothing, batch size and any other field of a training recipe; end with the best one.

    python jobs/tune.py --recipe git_large --samples 64 --source URI --labels DIR --kb DIR --out DIR
        [--space.optim.lr_decoder "loguniform(1e-5, 1e-3)"] [--validate.suite oven --validate.oven.questions FILES]

All flags of jobs/train.py are this job's, too. On a cluster: ``ray job submit --working-dir . -- python jobs/tune.py``.
The same line again goes on with what was begun, with more ``--samples`` with more trials; ``--hours 8`` cuts it. Ends
with a table, sweep.html, and best.json, which ``jobs/train.py --recipe`` takes. The last line of standard output is one
JSON object: trials, best, values, out.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys

from raylab.errors import RaylabError
from raylab.recipes.tune import parse_sweep

SKIPPED = "worker processes have been started on node"
"""Of what Ray prints among our lines: a sweep has many processes, and most of them wait."""


def main(args: list[str]) -> int:
    """Run the job; return the exit status."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("raylab").setLevel(logging.INFO)
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", SKIPPED)  # Ray reads it when it is imported
    try:
        sweep = parse_sweep(args)
        from raylab.tune.run import run

        summary = run(sweep)
    except RaylabError as error:
        print(f"tune: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    gc.freeze()  # the interpreter would look through all that Ray left once more, for half a second
    sys.exit(status)
