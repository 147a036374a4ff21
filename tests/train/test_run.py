"""Training under Ray: the steps of a run alone, also when its worker is killed; errors end it at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from train.runs import small, train
from train.training_store import Store

from raylab.errors import RaylabError
from raylab.train.plan import CheckpointConfig, TrainConfig
from raylab.train.run import run


def curves(out: Path) -> dict[int, float]:
    points = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    return {point["step"]: point["loss"] for point in points}


def kill_worker_after(step: int, config: TrainConfig) -> threading.Thread:
    """Kill the run's worker when that step is saved."""
    pointer = Path(config.out) / "checkpoints" / "LAST.json"

    def watch() -> None:
        while not pointer.exists() or json.loads(pointer.read_text())["step"] < step:
            time.sleep(0.01)
        for process in psutil.process_iter(["cmdline"]):
            if any("RayTrainWorker" in word for word in process.info["cmdline"] or ()):
                os.kill(process.pid, signal.SIGKILL)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.timeout(300)
def test_a_killed_worker_is_started_again_and_makes_the_same_steps(
    ray_cluster: None, store: Store, tmp_path: Path
) -> None:
    alone = train(small("mofi_miniworld", store, tmp_path / "alone", steps=30))
    config = small("mofi_miniworld", store, tmp_path / "ray", steps=30, checkpoint=CheckpointConfig(every=4))
    killer = kill_worker_after(8, config)
    summary = run(config)
    killer.join()
    found = curves(tmp_path / "ray")
    assert sorted(found) == list(range(1, 31))
    assert found == {step: point["loss"] for step, point in alone.items()}
    assert summary["last"]["loss"] == found[30]
    assert (tmp_path / "ray" / "model" / "open_clip_model.safetensors").exists()

    before = (tmp_path / "ray" / "curves.jsonl").read_bytes()
    with pytest.raises(RaylabError, match=r"another config:\n  batch: 16 -> 8"):
        run(replace(config, batch=8))
    assert (tmp_path / "ray" / "curves.jsonl").read_bytes() == before


@pytest.mark.timeout(200)
def test_pictures_that_are_gone_end_the_run_at_once(ray_cluster: None, store: Store, tmp_path: Path) -> None:
    moved = tmp_path / "labels"
    shutil.copytree(store.labels, moved)
    for part in (moved / "labels").iterdir():
        rows = pq.read_table(part)
        gone = [row | {"image": row["image"] | {"uri": "/nowhere/pairs.parquet"}} for row in rows.to_pylist()]
        pq.write_table(pa.Table.from_pylist(gone, rows.schema), part)
    config = small("mofi_miniworld", Store(str(moved), store.kb, store.source), tmp_path / "out")
    with pytest.raises(RaylabError, match=r"pictures in a row could be opened"):
        run(config)
