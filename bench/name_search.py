"""Prediction over a million names: faiss's index against comparing one by one, same run, same queries.

    .venv/bin/python bench/name_search.py [names]

Names lie as names of several words do: each is the mean of two or three of 50,000 words' vectors (100 numbers). A query
is a name's vector with noise. Both work with one thread.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import faiss
import numpy as np

from raylab.evaluate.named import CELLS_LOOKED_AT, open_index
from raylab.evaluate.ranking import nearest, unit

DIM, WORDS, QUERIES, K = 100, 50_000, 64, 5
NOISE = 0.08
ROUNDS = 3


def names(count: int) -> np.ndarray:
    """Return float16 [count, DIM], rows of length 1."""
    rng = np.random.default_rng(0)
    word_WD = unit(
        rng.standard_normal((WORDS, DIM)) + rng.standard_normal((200, DIM))[rng.integers(200, size=WORDS)], ""
    )
    chosen = (WORDS * rng.random((count, 3)) ** 3).astype(np.int64)  # some words are in many names
    name_ND = word_WD[chosen[:, 0]] + word_WD[chosen[:, 1]] + word_WD[chosen[:, 2]] * rng.integers(2, size=(count, 1))
    return unit(name_ND, "").astype(np.float16)


def seconds(work: object) -> tuple[float, np.ndarray]:
    """Return how long a call took, and the rows that it found."""
    started = time.perf_counter()
    rows = work()  # type: ignore[operator]
    return time.perf_counter() - started, rows


def main(count: int = 1_000_000) -> None:
    """Build, search in turns, print the JSON."""
    faiss.omp_set_num_threads(1)
    matrix_ND = names(count)
    rng = np.random.default_rng(1)
    noisy_QD = matrix_ND[rng.integers(count, size=QUERIES)] + NOISE * rng.standard_normal((QUERIES, DIM))
    query_QD = unit(noisy_QD, "")
    with tempfile.TemporaryDirectory() as folder:
        built, _ = seconds(lambda: open_index(Path(folder), matrix_ND))
        index = open_index(Path(folder), matrix_ND)
        rounds = []
        for _ in range(ROUNDS):
            exact_s, exact_QK = seconds(lambda: nearest(query_QD, matrix_ND, K)[0])
            faiss_s, found_QK = seconds(lambda: index.search(query_QD, K)[1])
            recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(exact_QK.tolist(), found_QK.tolist())])
            alone_s, _ = seconds(lambda: nearest(query_QD[:1], matrix_ND, K)[0])
            alone_faiss_s, _ = seconds(lambda: index.search(query_QD[:1], K)[1])
            many = {"exact_ms": 1e3 * exact_s / QUERIES, "faiss_ms": 1e3 * faiss_s / QUERIES}
            alone = {"exact_alone_ms": 1e3 * alone_s, "faiss_alone_ms": 1e3 * alone_faiss_s}
            rounds.append(many | alone | {"recall": recall})
    result = {
        "names": count,
        "dim": DIM,
        "cells_looked_at": CELLS_LOOKED_AT,
        "build_s": round(built, 1),
        "ms": f"a query, of {QUERIES} at once or alone",
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("faiss-cpu", "numpy")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
