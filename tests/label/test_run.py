"""The run on a real Ray, with steps that need no model."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from label.toy_steps import Judge, Name
from wandb_files import read_wandb, wandb_folders

from raylab.errors import RaylabError
from raylab.kb.build import BuildConfig, build
from raylab.label.plan import LabelConfig, Pool, Pools, StoreConfig
from raylab.label.run import run
from raylab.label.store import LabelStore
from raylab.sources.base import SourceConfig
from raylab.tracking import TrackingConfig

pytestmark = pytest.mark.usefixtures("ray_cluster")
ROWS = 1200
POOLS = Pools(mentions=Pool(num_cpus=0.5, batch_rows=100), select=Pool(max_actors=2, num_cpus=0.5, batch_rows=150))


@dataclasses.dataclass(frozen=True)
class ToyConfig(LabelConfig):
    judge: Judge = dataclasses.field(default_factory=Judge)

    def step_configs(self):
        return {"mentions": Name(), "select": self.judge}


@pytest.fixture(scope="module")
def kb(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("kb") / "kb"
    build(BuildConfig(out=str(folder), catalogues=("miniworld://",), workers=1, context=False))
    return str(folder)


def config_of(kb: str, out: Path) -> ToyConfig:
    source = SourceConfig(uri=f"miniworld://?rows={ROWS}&seed=3", chunk_rows=200)
    return ToyConfig(source=source, kb=kb, out=str(out), pools=POOLS, store=StoreConfig(1, 5))


@pytest.fixture
def config(kb, tmp_path) -> ToyConfig:
    return config_of(kb, tmp_path / "run")


@pytest.fixture(scope="module")
def healthy(kb, tmp_path_factory) -> tuple[ToyConfig, dict]:
    """A run to its end, which tests read and do not change, and its summary."""
    made = config_of(kb, tmp_path_factory.mktemp("healthy") / "run")
    return made, run(made)


def verdicts(out: str) -> dict[str, str]:
    store = LabelStore(out)
    labels = store.labels().to_table(columns=["row_id", "entity_id"]).to_pylist()
    rejects = store.rejects().to_table(columns=["row_id", "reject_reason"]).to_pylist()
    found = {row["row_id"]: row["entity_id"] for row in labels} | {r["row_id"]: r["reject_reason"] for r in rejects}
    assert len(found) == len(labels) + len(rejects) == ROWS, "every row is there exactly once"
    return found


def test_every_row_ends_labelled_or_with_a_reason_and_counts_close(healthy):
    config, summary = healthy
    assert summary["rows_in"] == ROWS == summary["labelled"] + summary["rejected"] + summary["failed"]
    found = Counter(verdicts(config.out).values())
    assert found["low_score"] == summary["reasons"]["low_score"] > 0
    assert (
        sum(n for what, n in found.items() if what.startswith("e") and what != "empty_caption") == summary["labelled"]
    )
    names = {path.name for path in Path(config.out).iterdir()}
    assert {
        "config.json",
        "summary.json",
        "README.md",
        "report.html",
        "entity_counts.parquet",
        "MANIFEST.json",
        "clock.json",
    } <= names
    assert all(step["cpu_seconds"] > 0 for step in summary["steps"] if step["name"] != "count")
    clock = json.loads(Path(config.out, "clock.json").read_text())
    marks = ("ray", "first_rows", "last_rows", "last_commit", "second_pass")
    assert [clock[mark] for mark in marks] == sorted(clock[mark] for mark in marks)
    assert "pieces" not in names


def test_the_same_line_on_a_finished_run_changes_nothing(config, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = dataclasses.replace(config, track=TrackingConfig("flags"))
    first = run(config)
    before = {p: p.stat().st_mtime_ns for p in Path(config.out).rglob("*.parquet")}
    again = run(config)
    assert {p: p.stat().st_mtime_ns for p in Path(config.out).rglob("*.parquet")} == before
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in first.items() if k != "seconds"}
    (told,) = map(read_wandb, wandb_folders(Path(config.out)))
    assert [step["rows_out"] for step in told.table("steps")] == [step["rows_out"] for step in first["steps"]]


def test_only_what_is_missing_is_done_again(config):
    run(config)
    whole = verdicts(config.out)
    out = Path(config.out)
    (out / "MANIFEST.json").unlink()
    (out / "segments/00001.json").unlink()
    kept = (out / "labels/00000.parquet").stat().st_mtime_ns
    run(config)
    assert verdicts(config.out) == whole
    assert (out / "labels/00000.parquet").stat().st_mtime_ns == kept


def test_another_config_is_refused_and_another_pool_is_not(config):
    run(config)
    with pytest.raises(RaylabError, match=r"store.min_entity_images: 5 -> 2"):
        run(dataclasses.replace(config, store=StoreConfig(1, 2)))
    run(dataclasses.replace(config, pools=Pools()))


def test_rare_entities_are_cut_in_the_second_pass(healthy, config):
    whole, counts = healthy[0], healthy[1]["entities"]["top"]
    least = counts[-1][2] + 1
    other = dataclasses.replace(config, store=StoreConfig(1, least))
    summary = run(other)
    rare = {name for name, _, images in counts if images < least}
    assert rare
    assert summary["entities"]["cut"] == len(rare)
    assert summary["reasons"]["rare_entity"] == sum(images for name, _, images in counts if name in rare)
    cut = {row_id for row_id, what in verdicts(other.out).items() if what == "rare_entity"}
    assert cut == {row_id for row_id, what in verdicts(whole.out).items() if what in rare}


def test_a_row_that_raises_is_the_only_one_lost(healthy, config):
    summary = run(dataclasses.replace(config, judge=Judge(poison="000000077")))
    assert (summary["failed"], summary["labelled"]) == (1, healthy[1]["labelled"] - 1)


def test_a_row_that_kills_its_worker_is_the_only_one_lost(healthy, config):
    summary = run(dataclasses.replace(config, judge=Judge(poison="000000077", how="die")))
    assert (summary["failed"], summary["labelled"]) == (1, healthy[1]["labelled"] - 1)
    assert Counter(verdicts(config.out).values())["worker_crash"] == 1


def test_a_step_that_cannot_be_built_is_one_clear_error(config):
    with pytest.raises(RaylabError, match=r"^there is no such model: install it$"):
        run(dataclasses.replace(config, judge=Judge(how="build")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kb": "/nowhere"}, "/nowhere is no knowledge base"),
        ({"out": ""}, "--out is missing"),
        ({"source": SourceConfig(uri="s3://key:secret@bucket/x")}, "holds a password"),
        ({"source": SourceConfig(uri="/nowhere/*.tar")}, "/nowhere"),
        ({"pools": Pools(select=Pool(min_actors=3, max_actors=2))}, "pools.select: needs 1 <= min_actors"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(config, change, message):
    with pytest.raises(RaylabError, match=message):
        run(dataclasses.replace(config, **change))
