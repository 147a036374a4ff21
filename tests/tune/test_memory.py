"""A trial whose worker the host's memory monitor kills is tried again with more passes, as one that a GPU refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from train.training_store import Store

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_whose_worker_the_memory_monitor_kills_gets_more_passes(store: Store, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tune.memory", json.dumps(asdict(store)), str(tmp_path / "sweep")],
        env=os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"accumulate": 2}
    assert "Out of memory, the host's, with 16 rows a step on 1 workers in 1 passes" in done.stderr
    trial = tmp_path / "sweep" / "trials" / "a"
    steps = [json.loads(line)["step"] for line in (trial / "curves.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert json.loads((trial / "end.json").read_text()) == {"status": "finished"}
