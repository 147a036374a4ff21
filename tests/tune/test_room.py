"""How many trials a cluster has room for, and that their workers get what was claimed for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from train.training_store import Store

from raylab.errors import RaylabError
from raylab.recipes.train import TRAIN
from raylab.train.accelerators.run import slices
from raylab.train.plan import ParallelConfig
from raylab.tune.room import Needs, fits, fits_nodes

TESTS = Path(__file__).parents[1]


def needs(workers: int = 1, rest: float = 0.5, **worker: float) -> Needs:
    return Needs(workers, worker, {"CPU": rest})


def test_all_that_a_trial_takes_has_to_be_there() -> None:
    assert fits(needs(CPU=1), {"CPU": 6}) == 4
    assert fits(needs(2, CPU=1, GPU=1), {"CPU": 64, "GPU": 8}) == 4
    assert fits(needs(CPU=1, GPU=0.1), {"CPU": 64, "GPU": 1}) == 10  # though 1 // 0.1 is 9
    with pytest.raises(RaylabError, match=r"needs 1 GPUs and this cluster has 0"):
        fits(needs(CPU=1, GPU=1), {"CPU": 64})


def test_a_worker_lies_on_one_node() -> None:
    nodes = [{"CPU": 4.0}, {"CPU": 3.0}, {"CPU": 1.0}]
    assert fits_nodes(needs(CPU=2), nodes) == 3
    assert fits_nodes(needs(2, CPU=2), nodes) == 1
    with pytest.raises(RaylabError, match=r"1 workers of 5 CPUs each, and the nodes .* have room for 0"):
        fits_nodes(needs(CPU=5), nodes)


def test_a_part_of_a_gpu_is_of_one_gpu() -> None:
    assert fits_nodes(needs(CPU=1, GPU=0.6), [{"CPU": 16.0, "GPU": 4.0}]) == 4  # six by their sum
    assert fits_nodes(needs(CPU=1, GPU=0.5), [{"CPU": 16.0, "GPU": 4.0}]) == 8
    assert fits_nodes(needs(CPU=1, GPU=0.5), [{"CPU": 3.0, "GPU": 4.0}, {"CPU": 9.0}]) == 3


def test_slices_of_several_hosts_are_counted_as_such() -> None:
    """Chips of small slices do not make a large one."""

    def taken(topology: str, workers: int) -> dict[str, float]:
        parallel = ParallelConfig(workers=workers, topology=topology, tpu="TPU-V6E")
        return slices(replace(TRAIN["git_large"](), parallel=parallel))

    assert taken("4x4", 8) == {"TPU-v6e-16-head": 2.0}
    assert taken("2x4", 1) == {}
    small = {"CPU": 99.0, "TPU": 64.0, "TPU-v6e-4-head": 16.0}
    with pytest.raises(RaylabError, match=r"needs 2 TPU-v6e-16-heads and this cluster has 0"):
        fits(Needs(8, {"CPU": 1, "TPU": 4}, taken("4x4", 8)), small)


def claims(kind: str, store: Store, out: Path) -> tuple[int, dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Run a sweep on a cluster of its own; see `tune.claims`. Return trials at a time, summary, claims a trial."""
    done = subprocess.run(
        [sys.executable, "-m", "tune.claims", kind, json.dumps(asdict(store)), str(out)],
        env=os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        cwd=out.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((out / "told.json").read_text())
    found = {
        trial.name: [json.loads(file.read_text()) for file in sorted(trial.glob("claim-*.json"))]
        for trial in sorted((out / "trials").iterdir())
    }
    return told["at_once"], told["summary"], found


def most_at_once(claimed: dict[str, list[dict[str, Any]]]) -> int:
    """Return how many trials held their workers at the same time, at most."""
    spans = [(min(one["time"][0] for one in trial), max(one["time"][1] for one in trial)) for trial in claimed.values()]
    return max(sum(began <= start < ended for began, ended in spans) for start, _ in spans)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_trials_share_gpus(store: Store, tmp_path: Path) -> None:
    """Half a GPU to train and a quarter to validate: two at a time on two GPUs, the third takes its turn."""
    at_once, summary, claimed = claims("gpus", store, tmp_path / "sweep")
    assert (at_once, summary["finished"]) == (2, 3)
    assert most_at_once(claimed) <= 2
    for (worker,) in claimed.values():
        assert worker["resources"] == {"CPU": 1.0, "GPU": 0.5}
        assert len(worker["gpus"]) == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_trial_has_whole_slices(store: Store, tmp_path: Path) -> None:
    """Two slices of two hosts each, a slice a trial: its workers are the hosts of one slice."""
    at_once, summary, claimed = claims("slices", store, tmp_path / "sweep")
    assert (at_once, summary["finished"]) == (2, 3)
    assert most_at_once(claimed) <= 2
    for workers in claimed.values():
        assert len(workers) == 2
        assert [worker["resources"]["TPU"] for worker in workers] == [4.0, 4.0]
        assert len({worker["slice"] for worker in workers}) == 1
        assert len({worker["node"] for worker in workers}) == 2


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_on_a_cluster_of_one_trial_they_come_one_after_the_other(store: Store, tmp_path: Path) -> None:
    """With more at a time each would wait for what another holds."""
    at_once, summary, claimed = claims("small", store, tmp_path / "sweep")
    assert (at_once, summary["finished"]) == (1, 3)
    assert most_at_once(claimed) == 1
