"""Train a network that tells a class for each pixel, and score it by mIoU.

    python jobs/segment.py --recipe dpc_cityscapes --train DIR#split=train --val DIR#split=val --out DIR

Without data of your own, ``--recipe dpc_miniworld`` draws it. The same line again goes on from the last checkpoint. The
last line of standard output is one JSON object: recipe, steps, scores (miou, iou of each class), model, out.
"""

from __future__ import annotations

import json
import logging
import sys

from raylab.config import parse
from raylab.errors import RaylabError
from raylab.recipes.segmentation import SEGMENTATION


def main(args: list[str]) -> int:
    """Run the job; return the exit status."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("raylab").setLevel(logging.INFO)
    try:
        config = parse(SEGMENTATION, "dpc_miniworld", args, "Train a network for segmentation.")
        from raylab.dense.fit import fit

        summary = fit(config)
    except RaylabError as error:
        print(f"segment: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
