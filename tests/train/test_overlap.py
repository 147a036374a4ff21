"""Rows are read by others while a worker computes; what a host keeps for itself lies on its own disk."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from train.noting import Noting

from raylab.errors import RaylabError
from raylab.recipes.train import TRAIN
from raylab.sources.base import SourceConfig
from raylab.train.plan import check
from raylab.train.run import _stream


def test_the_next_rows_are_read_while_a_step_runs(ray_cluster: None, tmp_path: Path) -> None:
    rows = _stream(Noting(tmp_path), [range(step, step + 1) for step in range(3)])  # type: ignore[arg-type]
    assert next(rows)["step"].to_pylist() == [0]
    deadline = time.monotonic() + 60
    while not (tmp_path / "1").exists():  # nobody asks for it yet: the first rows' step runs
        assert time.monotonic() < deadline, "rows are only read when they are asked for"
        time.sleep(0.05)
    assert [table["step"].to_pylist() for table in rows] == [[1], [2]]


def test_compiled_programs_stay_on_a_host_of_a_run_in_a_bucket() -> None:
    bucket = {name: f"s3://bucket/{name}" for name in ("labels", "kb", "out")}
    config = replace(TRAIN["clip_miniworld"](), source=SourceConfig(uri="s3://bucket/pairs"), **bucket)
    check(config)
    assert config.parallel.compile_cache.startswith("~/")
    for elsewhere in ("s3://bucket/out/xla", "gs://bucket/xla", "runs/xla"):
        with pytest.raises(RaylabError, match="kept on each host's own disk"):
            check(replace(config, parallel=replace(config.parallel, compile_cache=elsewhere)))
