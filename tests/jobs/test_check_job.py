"""jobs/check.py as a user starts it, and what jobs say of paths on a cluster whose nodes have disks of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from jobs.in_process import called
from sources.source_files import pair_members, write_tar

from raylab.errors import RaylabError
from raylab.evaluate.plan import EvaluateConfig
from raylab.preflight.asked import Asked
from raylab.preflight.base import Check, Finding, Level, Task
from raylab.preflight.run import _finish, _on_this_cluster, asked_of, run, upload_bytes
from raylab.recipes import LABEL
from raylab.recipes.evaluate import EVALUATE
from raylab.recipes.train import TRAIN
from raylab.recipes.tune import parse_sweep
from raylab.sources import open_source
from raylab.sources.base import SourceConfig
from raylab.train.plan import TrainConfig
from raylab.tune.plan import Sweep, SweepConfig

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
    assert "fail" not in levels.values(), "this machine's disk may be full enough for a warning"
    assert {levels[check] for check in ("CPUs", "storage", "source", "models")} == {"ok"}
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
    done = called("check", *line)
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
    assert asked.cpus > 8 and asked.project == "raylab" and asked.inputs["--labels"].uri == "s3://b/l"
    assert "torch-xla" not in asked.packages
    assert set(asked.places) == {"--source", "--labels", "--kb", "--out", "--init"}
    settings = SweepConfig(
        objective=("held_out/entity_exact",),
        validate=EvaluateConfig(suite="retrieval", data="s3://b/val", plots=False),
    )
    sweep = asked_of(Sweep.make(train, settings, {}))
    assert sweep.inputs["--validate.data"].uri == sweep.places["--validate.data"] == "s3://b/val"
    assert "optuna" in sweep.packages and sweep.inputs["--labels"].uri == "s3://b/l"
    scored = asked_of(replace(EVALUATE["standard"](), model="ViT-B-32", data="x", out="o", workers=3))
    assert scored.cpus > 3 and set(scored.places) == {"--data"} and scored.models["--model"].name == "ViT-B-32"
    assert scored.inputs["--data"].uri == "x"


def test_a_sweep_takes_its_knowledge_base_from_the_labels(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "config.json").write_text('{"kb": "s3://b/k"}')
    flags = [
        "--source.uri",
        "s3://b/s",
        "--labels",
        f"{tmp_path}/labels",
        "--out",
        "s3://b/o",
        "--data.held-out",
        "0.1",
    ]
    found = asked_of(parse_sweep(["--recipe", "mofi_b16", *flags]))
    assert found.kb == found.places["--kb"] == "s3://b/k"


def train_config(**given: object) -> TrainConfig:
    workers = given.pop("workers", 1)
    config = TRAIN["mofi_b16"]()
    places = {
        "source": replace(config.source, uri="s3://b/s"),
        "labels": "s3://b/l",
        "kb": "s3://b/k",
        "out": "s3://b/o",
    }
    return replace(config, **places, parallel=replace(config.parallel, workers=workers), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "gpus", "said"),
    [
        ({"accelerator": "cuda", "workers": 8}, 8, "8 workers need a GPU each and this Ray has 0"),
        ({"accelerator": "xla", "workers": 2}, 0, "--accelerator xla without a TPU: one worker alone"),
        ({"accelerator": "auto", "workers": 2}, 0, ""),
    ],
)
def test_training_is_refused_as_the_job_would(
    ray_cluster: None, given: dict[str, object], gpus: float, said: str
) -> None:
    wanted, refused = _on_this_cluster(asked_of(train_config(**given)))
    assert wanted.gpus == gpus and wanted.train is None
    assert said in refused and bool(said) == bool(refused)


def test_what_cannot_be_cleared_away_is_a_line_of_the_table() -> None:
    class Stays(Check):
        name = "stays"

        def finish(self, task: Task) -> None:
            raise PermissionError("no right to remove")

    task = Task(Asked(), "probe", "driver")
    findings = {"stays": Finding("stays", Level.OK, "written and read")}
    _finish(Stays(), task, findings)
    assert findings["stays"].level is Level.WARN
    assert findings["stays"].seen.startswith("written and read; ") and "no right to remove" in findings["stays"].seen
    bad = {"stays": Finding("stays", Level.FAIL, "cannot be written")}
    _finish(Stays(), task, bad)
    assert bad["stays"].seen == "cannot be written"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_storage_that_never_answers_is_named(tmp_path: Path) -> None:
    """Its port takes connections and says nothing; S3's client alone would try for five minutes."""
    line = ["label", "--recipe", "miniworld", "--source", SOURCE, "--kb", "s3://b/kb", "--out", "s3://b/out"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        keys = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        started = time.monotonic()
        done = start("check", "--json", *line, **keys)
    assert time.monotonic() - started < 150
    found = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    for name in ("storage", "knowledge base"):
        assert found[name]["level"] == "fail" and "no answer within" in found[name]["seen"]
    assert found["source"]["level"] == found["versions"]["level"] == "ok"


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
    """A head that offers no CPU, and a node that has a disk of its own at the folder that is returned."""
    from ray.cluster_utils import Cluster

    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a node with a disk of its own needs root and unshare")
    folder = tmp_path_factory.mktemp("disk")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
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


def test_a_shard_that_a_worker_does_not_see_is_no_bad_shard(ray_cluster: None, tmp_path: Path) -> None:
    """What is gone for the driver's node too becomes a row with a reason, as ever."""
    import ray

    from raylab.label.run import _read_segment
    from raylab.label.segments import Segment

    write_tar(tmp_path / "pairs.tar", pair_members("k", "x"))
    source = open_source(SourceConfig(uri=str(tmp_path / "pairs.tar")))
    segment = Segment(0, tuple(source.shards()))
    assert sum(rows.num_rows for rows in _read_segment(source, segment, "another node")) == 1
    (tmp_path / "pairs.tar").unlink()
    with pytest.raises(RaylabError, match=r"does not see .*pairs\.tar, which the driver listed"):
        list(_read_segment(source, segment, "another node"))
    (rows,) = _read_segment(source, segment, ray.get_runtime_context().get_node_id())
    assert rows["reject_reason"].to_pylist() == ["unreadable_shard"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_source_on_the_drivers_disk_alone(two_disks: tuple[str, Path], tmp_path: Path) -> None:
    """All else is shared, and the user says that the source is too: workers' read tasks end the job."""
    address, folder = two_disks
    write_tar(folder / "pairs.tar", pair_members("k", "x", 50))
    kb = made_kb(tmp_path)
    flags = ["--recipe", "miniworld", "--source", folder / "*.tar", "--kb", kb, "--out", tmp_path / "run"]
    done = start("label", *flags, "--shared-disk", RAY_ADDRESS=address)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "does not see" in done.stderr and "pairs.tar, which the driver listed" in done.stderr
    assert not (tmp_path / "run/MANIFEST.json").exists()


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
