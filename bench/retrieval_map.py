"""Retrieval mAP of 12,000 x 512 features (GPR1200's size) against scikit-learn's average precision, in the same run.

    .venv/bin/python bench/retrieval_map.py

Features are drawn: 1,200 classes of 10 images, unit vectors around class centres, so that mAP comes to about half.
Rounds alternate which side goes first. Ours is timed over all 12,000 queries, by both protocols (the query ranked, and
taken out), with its precision-recall curve. scikit-learn scores a new 200 of the queries each round and its time is
scaled up; `difference` is the largest of mAP over these 200. With --all, both score all 12,000 once more, untimed, for
`all_queries_difference`. `ratio` is the median over rounds of its time over ours. Memory is the peak of a process of
its own that does nothing else, features included.
Asked for: equal to 1e-6, under 20 s, under 2 GB.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import numpy as np
import sklearn
from sklearn.metrics import average_precision_score

from raylab.evaluate.retrieval import average_precisions

CLASSES, PER_CLASS, DIM, NOISE = 1200, 10, 512, 2.6
ROUNDS, SAMPLE = 5, 200
ASKED = {"difference": 1e-6, "seconds": 20.0, "peak_mib": 2048.0}


def main() -> None:
    """Measure both protocols; print the JSON last."""
    if sys.argv[1:] == ["--alone"]:
        features, class_N = drawn()
        average_precisions(features, class_N, self_hit=True)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    features, class_N = drawn()
    order = np.random.default_rng(1).permutation(len(features))
    rounds = []
    for number in range(ROUNDS):
        queries = order[number * SAMPLE : (number + 1) * SAMPLE]
        rounds.append(one_round(features, class_N, queries, flip=bool(number % 2)))
    everything = whole_difference(features, class_N) if "--all" in sys.argv else None
    report(rounds, everything, peak_mib())


def report(rounds: list[dict[str, Any]], everything: float | None, peak: float) -> None:
    """Print a line for people and the JSON."""
    seconds = {name: median(one[name] for one in rounds) for name in ("official_s", "leave_one_out_s")}
    ratio = median(one["sklearn_s"] / one["official_s"] for one in rounds)
    difference = max(one["difference"] for one in rounds)
    print(
        f"{seconds['official_s']:.2f} s with the query, {seconds['leave_one_out_s']:.2f} s without it", file=sys.stderr
    )
    print(f"scikit-learn {ratio:.0f} x slower; largest difference {difference:.1e}; {peak:.0f} MiB", file=sys.stderr)
    figures = {"ratio": ratio, **seconds, "difference": difference, "all_queries_difference": everything}
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    versions = {"numpy": np.__version__, "scikit-learn": sklearn.__version__}
    print(json.dumps({**figures, "peak_mib": peak, "asked": ASKED, "rounds": rounds, **machine, **versions}))


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [12000, 512] unit vectors and their classes."""
    rng = np.random.default_rng(0)
    class_N = np.repeat(np.arange(CLASSES), PER_CLASS)
    features = rng.normal(size=(CLASSES, DIM))[class_N] + NOISE * rng.normal(size=(len(class_N), DIM))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), class_N


def one_round(features: np.ndarray, class_N: np.ndarray, queries: np.ndarray, *, flip: bool) -> dict[str, float]:
    """Time ours over everything and scikit-learn over some queries; compare them there."""
    ours: dict[str, tuple[float, np.ndarray]] = {}
    theirs: dict[str, tuple[float, np.ndarray]] = {}
    for side in ("sklearn", "raylab") if flip else ("raylab", "sklearn"):
        for name, self_hit in (("official", True), ("leave_one_out", False)):
            started = time.perf_counter()
            if side == "raylab":
                found = average_precisions(features, class_N, self_hit=self_hit).average
                ours[name] = time.perf_counter() - started, found
            else:
                found = by_sklearn(features, class_N, queries, self_hit)
                theirs[name] = time.perf_counter() - started, found
    differences = [abs(ours[name][1][queries].mean() - theirs[name][1].mean()) for name in ours]
    return {
        "official_s": ours["official"][0],
        "leave_one_out_s": ours["leave_one_out"][0],
        "sklearn_s": theirs["official"][0] * len(features) / len(queries),
        "difference": float(max(differences)),
        "official_mAP": float(ours["official"][1].mean()),
        "leave_one_out_mAP": float(ours["leave_one_out"][1].mean()),
    }


def by_sklearn(features: np.ndarray, class_N: np.ndarray, queries: np.ndarray, self_hit: bool) -> np.ndarray:
    """Return scikit-learn's average precision of each query."""
    found = []
    for start in range(0, len(queries), 256):
        chosen = queries[start : start + 256]
        for query, score_N in zip(chosen, features[chosen] @ features.T):
            kept = np.ones(len(features), bool)
            kept[query] = self_hit
            found.append(average_precision_score(class_N[kept] == class_N[query], score_N[kept]))
    return np.array(found)


def whole_difference(features: np.ndarray, class_N: np.ndarray) -> float:
    """Return the larger difference of mAP over all queries, of both protocols."""
    everyone = np.arange(len(features))
    return max(
        abs(
            average_precisions(features, class_N, self_hit=self_hit).average.mean()
            - by_sklearn(features, class_N, everyone, self_hit).mean()
        )
        for self_hit in (True, False)
    )


def peak_mib() -> float:
    """Return the peak memory of a process that computes mAP once."""
    line = [sys.executable, __file__, "--alone"]
    return float(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
