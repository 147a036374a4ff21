"""Train an entity model on a label store: MOFI, the CLIP baseline, the generative recogniser.

    python jobs/train.py --recipe mofi_b16 --source URI --labels DIR --kb DIR --out DIR [--steps 10000] [--batch 1024]

On a cluster: ``ray job submit --working-dir . -- python jobs/train.py ...``. The same line again goes on from the last
checkpoint. The last line of standard output is one JSON object: recipe, steps, rows, last (losses, rates), model, out.
"""

from __future__ import annotations

import gc
import json
import logging
import sys

from raylab.config import parse
from raylab.errors import RaylabError
from raylab.recipes.train import TRAIN


def main(args: list[str]) -> int:
    """Run the job; return the exit status."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("raylab").setLevel(logging.INFO)
    try:
        config = parse(TRAIN, "mofi_b16", args, "Train an entity model on a label store.")
        from raylab.train.run import run

        summary = run(config)
    except RaylabError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    gc.freeze()  # the interpreter would look through all that Ray left once more, for half a second
    sys.exit(status)
