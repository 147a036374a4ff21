"""Search for dense-prediction cells: many by a cheap proxy task, the best by full training.

    python jobs/search.py --recipe dpc_search --full.train DIR#split=train --full.val DIR#split=val --out DIR

Without data of your own, ``--recipe dpc_search_miniworld`` draws it. On a cluster: ``ray job submit --working-dir . --
python jobs/search.py``. The same line again goes on with what was begun. Ends with best.json (the cell, in DeepLab's
format) and search.html. The last line of standard output is one JSON object: cells, best, full, fidelity, out.
"""

from __future__ import annotations

import gc
import json
import logging
import sys

from raylab.config import parse
from raylab.errors import RaylabError
from raylab.recipes.search import SEARCH


def main(args: list[str]) -> int:
    """Run the job; return the exit status."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("raylab").setLevel(logging.INFO)
    try:
        config = parse(SEARCH, "dpc_search_miniworld", args, "Search for dense-prediction cells.")
        from raylab.dense.run import run

        summary = run(config)
    except RaylabError as error:
        print(f"search: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    gc.freeze()  # the interpreter would look through all that Ray left once more, for half a second
    sys.exit(status)
