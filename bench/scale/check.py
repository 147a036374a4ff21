"""What the model says of runs that it has not seen, and the runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from calibrate import SMALL, readers
from nodes import on_nodes
from quiet import note
from runs import job

CHECKED = (12_000, 311)
"""Rows and seed that are predicted."""


def predicted(found: dict[str, Any], rows: int, cores: list[float], warm: bool) -> dict[str, float]:
    """Return what the simulator says of a run on nodes with so many cores each; one actor a core or node."""
    from raylab.scale.flow import Node, simulate

    actors = [max(1, int(one)) for one in cores]
    phase = work(found, 0.0, warm)
    two = ([Node(1.0)] * 2, [[2, 2], [1, 1]]) if warm else ([Node(2.0)], [[1], [2]])
    small = simulate(phase, *two, SMALL[0])  # as it was measured: what is missing there was waiting
    waited = (found["fixed"]["warm_first_rows_s"] if warm else found["fixed"]["first_rows_s"]) - small.first_s
    reading = [2] * len(cores) if warm else [readers(int(cores[0]))]
    outcome = simulate(work(found, waited, warm), [Node(one) for one in cores], [reading, actors], rows)
    return {"seconds": outcome.seconds, "rows_per_s": (rows - 256) / (outcome.last_s - outcome.first_s)}


def work(found: dict[str, Any], wait_s: float, warm: bool) -> Any:
    """Return the phase of the model; all steps share a pool."""
    from raylab.scale.work import Phase, StageWork

    fixed, steps = found["fixed"], found["steps"]
    stage = StageWork(
        "all",
        sum(seconds for name, seconds in steps.items() if name != "source") + fixed["actor_row_s"],
        start_cpu_s=fixed["actor_cpu_s"],
    )
    return Phase(
        "label",
        StageWork("source", steps["source"], batch_rows=256, start_cpu_s=fixed["reader_cpu_s"]),
        (stage,),
        driver_s=fixed["driver_row_s"],
        driver_share=fixed["driver_share"],
        node_share=fixed["node_share"],
        start_wait_s=max(0.0, wait_s),
        start_cpu_s=fixed["start_cpu_s"],
        start_ray_s=0.0 if warm else fixed["start_ray_s"],
        end_cpu_s=fixed["end_cpu_s"],
        end_row_s=fixed["end_row_s"],
    )


def check(folder: Path, kb: str, found: dict[str, Any], only: list[str]) -> list[dict[str, Any]]:
    """Predict, run, compare: all cases, or those whose names hold one of the words."""
    job(folder, kb, 500, 300, 2)
    cases = [("1 core", [1.0], 1, 0), ("2 cores", [2.0], 2, 0)]
    cases += [("1 node of 1 core", [1.0], 0, 1), ("2 nodes of 1 core", [1.0, 1.0], 0, 2)]
    cases += [("3 nodes on 2 cores", [2 / 3] * 3, 0, 3)]
    results = []
    for name, cores, own, nodes in (one for one in cases if not only or any(word in one[0] for word in only)):
        said = predicted(found, CHECKED[0], cores, warm=bool(nodes))
        real = on_nodes(folder, kb, *CHECKED, nodes) if nodes else job(folder, kb, *CHECKED, own)
        seconds = real["wall_s"]
        error = said["seconds"] / seconds - 1
        results.append({"case": name, "predicted_s": said["seconds"], "measured_s": seconds, "error": error,
                        "predicted_rows_per_s": said["rows_per_s"], "measured": real})  # fmt: skip
        note(json.dumps(results[-1]))
        note(name, f"predicted {said['seconds']:.1f} s, measured {seconds:.1f} s: {error:+.1%}")
    return results
