"""jobs/check.py as a user starts it, and what jobs say of paths on a cluster whose nodes have disks of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylab.preflight.asked import Asked
from raylab.preflight.base import Level
from raylab.preflight.run import asked_of, run, upload_bytes
from raylab.recipes import LABEL
from raylab.recipes.evaluate import EVALUATE
from raylab.recipes.train import TRAIN

ROOT = Path(__file__).parents[2]
SOURCE = "miniworld://?rows=200&seed=12"


def start(job: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, f"jobs/{job}.py", *map(str, arguments)]
    return subprocess.run(
        line, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=170, check=False
    )


def made_kb(folder: Path) -> Path:
    assert start("build_kb", "--catalogues", "miniworld://", "--out", folder / "kb").returncode == 0
    return folder / "kb"


def test_a_line_whose_knowledge_base_is_damaged(tmp_path: Path) -> None:
    kb = made_kb(tmp_path)
    (kb / "names.arrow").unlink()
    line = ["label", "--recipe", "miniworld", "--source", SOURCE, "--kb", kb, "--out", tmp_path / "run"]
    done = start("check", "--json", *line)
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)
    levels = {one["check"]: one["level"] for one in found["checks"]}
    assert levels.pop("knowledge base") == found["level"] == "fail"
    assert set(levels.values()) == {"ok"} and {"CPUs", "storage", "source", "models"} <= set(levels)
    [bad] = [one for one in found["checks"] if one["level"] == "fail"]
    assert "names.arrow is missing" in bad["seen"] and "--kb" in bad["way_out"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["labels"], "There is no job 'labels' to check. Did you mean 'label'?"),
        (["label", "--kb", "x"], "--source is missing"),
        (["label", "--kbb", "x"], "There is no flag --kbb. Did you mean '--kb'?"),
    ],
)
def test_a_line_that_the_job_would_refuse(line: list[str], said: str) -> None:
    done = start("check", *line)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_on_the_ray_that_is_there(ray_cluster: None, tmp_path: Path) -> None:
    found = {one.check: one for one in run(Asked(cpus=1000.0, out=str(tmp_path / "run")))}
    assert found["storage"].level is Level.OK and found["storage"].seen.endswith("the driver and 1 node")
    assert found["CPUs"].level is Level.WARN and "the job needs 1000" in found["CPUs"].seen
    assert found["versions"].level is Level.OK
    assert "nodes" not in found


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    [found] = run(Asked())
    assert (found.check, found.level) == ("cluster", Level.FAIL)
    assert found.seen.startswith("127.0.0.1:9 ConnectionRefusedError") and "RAY_ADDRESS" in found.way_out


def test_what_recipes_ask_for() -> None:
    from dataclasses import replace

    rew = asked_of(replace(LABEL["rew_8gpu"](), source=replace(LABEL["rew"]().source, uri="s3://b/s"), kb="k", out="o"))
    assert rew.gpus == 8 and set(rew.models) == {"--select.clip", "--mentions.spacy", "--annotator.model"}
    train = replace(
        TRAIN["git_large"](),
        source=replace(TRAIN["git_large"]().source, uri="s3://b/s"),
        labels="s3://b/l",
        kb="s3://b/k",
        out="s3://b/o",
        accelerator="cuda",
    )
    asked = asked_of(replace(train, parallel=replace(train.parallel, workers=8)))
    assert asked.gpus == 8 and asked.cpus > 8 and asked.project == "raylab"
    assert set(asked.places) == {"--source", "--labels", "--kb", "--out", "--init"}
    scored = asked_of(replace(EVALUATE["standard"](), model="ViT-B-32", data="x", out="o", workers=3))
    assert scored.cpus > 3 and set(scored.places) == {"--data"} and scored.models["--model"].name == "ViT-B-32"


def test_what_is_ignored_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.bin\n")
    (tmp_path / ".rayignore").write_text("runs\n")
    (tmp_path / "runs").mkdir()
    for name in ("code.py", "data.bin", "runs/labels"):
        (tmp_path / name).write_bytes(bytes(1000))
    ignores = sum((tmp_path / name).stat().st_size for name in (".gitignore", ".rayignore"))
    assert upload_bytes(tmp_path) == 1000 + ignores


@pytest.fixture(scope="module")
def two_disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A cluster of two nodes, the second of which has a disk of its own at the folder that is returned."""
    from ray.cluster_utils import Cluster

    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a node with a disk of its own needs root and unshare")
    folder = tmp_path_factory.mktemp("disk")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray = Path(sys.executable).with_name("ray")
    node = f"mount -t tmpfs none {folder} && exec {ray} start --address={cluster.address} --num-cpus=2 --block"
    second = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", node],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for_nodes(cluster.address, 2)
        yield cluster.address, folder
    finally:
        os.killpg(second.pid, signal.SIGTERM)
        second.wait(timeout=60)
        cluster.shutdown()


def _wait_for_nodes(address: str, count: int) -> None:
    from ray._raylet import GcsClient

    until = time.monotonic() + 60
    while time.monotonic() < until:
        alive = [node for node in GcsClient(address=address).get_all_node_info().values() if node.state == 0]
        if len(alive) >= count:
            return
        time.sleep(0.5)
    raise AssertionError(f"fewer than {count} nodes after 60 s")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nodes_with_disks_of_their_own(two_disks: tuple[str, Path]) -> None:
    address, folder = two_disks
    kb = made_kb(folder)
    flags = ["--recipe", "miniworld", "--source", SOURCE, "--kb", kb, "--out", folder / "run"]
    refused = start("label", *flags, RAY_ADDRESS=address)
    assert refused.returncode == 2
    assert f"2 nodes, and each would look on its own disk for --kb {kb}, --out {folder}/run" in refused.stderr
    assert "--shared-disk" in refused.stderr

    done = start("check", "--json", "label", *flags, RAY_ADDRESS=address)
    assert done.returncode == 1, done.stderr
    found = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
    assert found["local paths"]["level"] == "fail"
    assert found["storage"]["level"] == "fail" and "is not to be seen here" in found["storage"]["seen"]
    assert "kb.json is missing" in found["knowledge base"]["seen"]
    assert found["versions"]["level"] == found["source"]["level"] == "ok"

    believed = start("label", *flags, "--shared-disk", RAY_ADDRESS=address)  # it is not true
    assert believed.returncode == 2
    assert "is no knowledge base" in believed.stderr or "does not see" in believed.stderr
