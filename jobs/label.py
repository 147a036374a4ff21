"""Label web image-text pairs with entities; with a recipe ``rew...`` an LLM then verifies, corrects and explains them.

    python jobs/label.py --source URI --kb DIR --out DIR [--recipe i2e|miniworld] [--select.min-score 0.4] [--dry-run]
    python jobs/label.py --recipe rew --source URI|LABELS --kb DIR --out DIR [--annotator.model NAME|PATH|http://host/v1]

On a cluster: ``ray job submit --working-dir . -- python jobs/label.py ...``. The same line again resumes. The last line
of standard output is one JSON object: rows_in, labelled, rejected, failed, seconds, out, and truth where it is known.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
from importlib import import_module

from raylab.annotate.plan import AblationConfig, RewConfig
from raylab.config import parse
from raylab.errors import RaylabError
from raylab.label.plan import LabelConfig
from raylab.recipes import LABEL

ROOMS = {LabelConfig: ("label", "run"), RewConfig: ("annotate", "run"), AblationConfig: ("annotate", "ablation")}
"""Which module of which room runs a config; each room has an `estimate`, a module may have a `table`."""


def main(args: list[str]) -> int:
    """Run the job; return the exit status."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("raylab").setLevel(logging.INFO)
    try:
        config = parse(LABEL, "i2e", args, "Label web image-text pairs with entities.")
        room, runner = ROOMS[type(config)]
        if config.dry_run:
            print(import_module(f"raylab.{room}.estimate").dry_run(config))
            return 0
        from raylab.label.summary import headline, table

        module = import_module(f"raylab.{room}.{runner}")
        summary = module.run(config)
    except RaylabError as error:
        print(f"label: {error}", file=sys.stderr)
        return 2
    print(getattr(module, "table", table)(summary))
    print(json.dumps(headline(summary)))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    gc.freeze()  # the interpreter would look through all that Ray left once more, for half a second
    sys.exit(status)
