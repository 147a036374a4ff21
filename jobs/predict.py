"""Name the entities in images with a trained model of either kind: a dual encoder or a generative recogniser.

    python jobs/predict.py --model DIR --kb DIR [--question "which flag is on the left?"] [--k 5] IMAGE [IMAGE ...]

One JSON object a line: image, entities (id, title, score), or the reason why the image was refused.
"""

from __future__ import annotations

import json
import sys

from raylab.config import parse
from raylab.errors import RaylabError
from raylab.evaluate.predict import PredictConfig, predict


def main(args: list[str]) -> int:
    """Run the job; return the exit status: 1 where an image was refused."""
    try:
        config = parse({"predict": PredictConfig}, "predict", args, "Name the entities in images.")
        refused = False
        for answer in predict(config):
            print(json.dumps(answer, ensure_ascii=False), flush=True)
            refused |= "refused" in answer
    except RaylabError as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    return int(refused)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
