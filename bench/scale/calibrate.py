"""Small runs, and the rates of the model that follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from nodes import on_nodes
from quiet import note
from runs import job

SMALL, LARGE = (2_000, 301), (8_000, 302)
"""Rows and seeds that are measured."""


def calibrate(folder: Path, kb: str) -> dict[str, Any]:
    """Return the model's rates from small runs on two cores, and what a cluster that is up saves."""
    job(folder, kb, 500, 300, 2)  # computes the entity vectors, and warms the disk's cache
    runs = []
    for (rows, seed), cores in ((SMALL, 2), (LARGE, 2), (SMALL, 1)):
        runs.append(job(folder, kb, rows, seed, cores, watch=True))
        note("calibrate", rows, cores, runs[-1]["wall_s"], runs[-1]["cpu"])
    warm = on_nodes(folder, kb, *SMALL, 2)
    note("on a warm cluster", warm["run_s"])
    found = fitted(runs)
    result = {"fixed": found | joined(warm, runs, found), "steps": stepped(runs), "runs": runs, "warm": warm}
    note(json.dumps(result))
    return result


def stepped(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return step -> core seconds a row, of the larger runs."""
    large = [one for one in runs if one["rows"] == LARGE[0]]
    names = [name for name in large[0]["step_cpu_s"] if name != "count"]
    return {name: median(one["step_cpu_s"][name] / one["rows"] for one in large) for name in names}


def fitted(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return what a run costs beside its steps: fixed, a row, and a second, where two cores and one tell them apart."""
    rows = np.array([one["rows"] for one in runs], float)
    seconds = np.array([one["run_s"] for one in runs])

    def parts(values: list[float], *by: np.ndarray) -> list[float]:
        found, *_ = np.linalg.lstsq(np.stack([np.ones(len(runs)), *by], axis=1), np.array(values), rcond=None)
        return [max(0.0, float(one)) for one in found]

    in_actors = [sum(spent for name, spent in one["step_cpu_s"].items() if name != "source") for one in runs]
    beside = [one["cpu"]["actor"] - steps for one, steps in zip(runs, in_actors)]
    cores = np.array([one["cores"] for one in runs], float)
    _, actor, actor_row = parts(beside, cores, rows)  # an actor a core
    driver, driver_row, driver_share = parts([one["cpu"]["driver"] for one in runs], rows, seconds)
    ray, node_share = parts([one["cpu"]["ray"] + one["cpu"]["other"] for one in runs], seconds)
    reader = [(one["cpu"]["reader"] - one["step_cpu_s"]["source"]) / readers(one["cores"]) for one in runs]
    end, end_row = parts([one["run_s"] - one["clock"]["last_rows"] for one in runs], rows)
    first = {n: median(first_rows(one) for one in runs if one["cores"] == n) for n in (1, 2)}
    return {
        "start_cpu_s": max(0.0, driver - end),
        "start_ray_s": ray,
        "reader_cpu_s": median(reader),
        "actor_cpu_s": actor,
        "actor_row_s": actor_row,
        "driver_row_s": driver_row,
        "driver_share": driver_share,
        "node_share": node_share,
        "end_cpu_s": end,
        "end_row_s": end_row,
        "first_rows_s": first[2],
        "first_rows_one_core_s": first[1],
    }


def readers(cores: int) -> int:
    """Return the read tasks that run at once: as many as find half a CPU beside the actors of `job`."""
    return 1 if cores == 2 else 2


def first_rows(one: dict[str, Any]) -> float:
    """Return the seconds from the process's start to the first rows."""
    return one["wall_s"] - one["run_s"] + one["clock"]["first_rows"]


def joined(warm: dict[str, Any], runs: list[dict[str, Any]], found: dict[str, float]) -> dict[str, float]:
    """Return how much sooner first rows come on a cluster that is up."""
    own = median(one["clock"]["first_rows"] for one in runs)
    return {"saved_s": own - warm["clock"]["first_rows"], "warm_first_rows_s": warm["clock"]["first_rows"]}
