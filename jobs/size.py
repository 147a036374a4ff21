"""Tell what a run would take on a cluster: bottleneck, pools, hours, money, bytes. Starts nothing.

    python jobs/size.py --recipe i2e --rows 1e8 --cluster cluster/gpu.yaml [--types cpu gpu] [--price gpu=0.5]
    python jobs/size.py --recipe miniworld --rows 1e5 --nodes 1x8CPU --rates RUN        rates of a labeling run of yours
    python jobs/size.py --recipe mofi_b16 --steps 100000 --batch 4096 --cluster cluster/gpu.yaml --types gpu_large

With ``--json`` the answer is one JSON object. Exit status 2 means that the message says what to put right.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from raylab.config import parse
from raylab.errors import RaylabError
from raylab.recipes import LABEL
from raylab.recipes.size import SIZE
from raylab.scale.plan import SizeConfig, size_labels, size_training
from raylab.scale.table import table


def main(args: list[str]) -> int:
    """Size the run; return the exit status."""
    try:
        config = parse(SIZE, "i2e", args, "Tell what a run would take on a cluster.")
        found = size(config)
    except RaylabError as error:
        print(f"size: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found) if config.json else table(found))
    return 0


def size(config: SizeConfig) -> dict[str, Any]:
    """Return what the recipe's room of the model says."""
    if config.recipe in LABEL:
        return size_labels(config, LABEL[config.recipe]())
    steps, batch = config.steps, config.batch
    if not (steps and batch):
        from raylab.recipes.train import TRAIN

        steps, batch = steps or TRAIN[config.recipe]().steps, batch or TRAIN[config.recipe]().batch
    return size_training(config, steps, batch)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
