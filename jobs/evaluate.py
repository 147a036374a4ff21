"""Score a model, or labels, by the protocols of the papers.

    python jobs/evaluate.py --model DIR --suite retrieval,zero_shot --data 'val.parquet#label=fine,title=name' --out DIR
    python jobs/evaluate.py --model DIR --suite gpr1200 --gpr1200.data GPR1200/images --out DIR
    python jobs/evaluate.py --model DIR --suite oven --kb DIR --oven.images DIR --oven.questions \
        oven_entity_val.jsonl,oven_query_val.jsonl --out DIR
    python jobs/evaluate.py --suite label_quality --label-quality.labels DIR --out DIR
    python jobs/evaluate.py --recipe miniworld --out DIR

With ``--workers N`` images are embedded by N Ray actors; on a cluster: ``ray job submit --working-dir . -- ...``. The
output holds scores.json, report.html and plots. The last line of standard output is one JSON object: scores, refused,
seconds, out.
"""

from __future__ import annotations

import json
import logging
import sys

from raylab.config import parse
from raylab.errors import RaylabError
from raylab.recipes.evaluate import EVALUATE


def main(args: list[str]) -> int:
    """Run the job; return the exit status."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("raylab").setLevel(logging.INFO)
    try:
        config = parse(EVALUATE, "standard", args, "Score a model, or labels, by the protocols of the papers.")
        from raylab.evaluate.run import run
        from raylab.evaluate.summary import headline, table

        summary = run(config)
    except RaylabError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    print(table(summary))
    print(json.dumps(headline(summary)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
