"""jobs/label.py as a user starts it: a process of its own, real models, real Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs.in_process import called

from raylab.label.store import LabelStore
from raylab.sources import open_source
from raylab.sources.base import SourceConfig

ROOT = Path(__file__).parents[2]


def start(job: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, f"jobs/{job}.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)


@pytest.fixture(scope="module")
def kb(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("job") / "kb"
    done = start("build_kb", "--catalogues", "miniworld://", "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def run(kb, tmp_path_factory) -> tuple[Path, dict, str]:
    out = tmp_path_factory.mktemp("job") / "run"
    source = "miniworld://?rows=600&seed=12"
    done = start("label", "--recipe", "miniworld", "--source", source, "--kb", kb, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1]), done.stdout


def test_the_last_line_is_the_summary_and_counts_close(run):
    out, last, _ = run
    assert list(last) == ["rows_in", "labelled", "rejected", "failed", "seconds", "out", "truth"]
    assert last["rows_in"] == 600 == last["labelled"] + last["rejected"] + last["failed"]
    assert last["failed"] == 0
    assert last["out"] == str(out)
    assert LabelStore(str(out)).labels().count_rows() == last["labelled"]


def test_looking_at_the_image_is_what_makes_labels_right(run):
    truth = run[1]["truth"]
    assert set(truth["select"]) == {"precision", "recall", "coverage"}
    assert truth["link"]["precision"] < 0.7
    assert truth["select"]["precision"] > 0.9
    assert truth["select"]["coverage"] > 0.6


def test_the_table_names_every_step_and_the_report(run):
    out, _, shown = run
    for word in ("source", "mentions", "candidates", "link", "select", "against truth", "precision", "rows/s"):
        assert word in shown
    assert str(out / "report.html") in shown
    assert (out / "report.html").stat().st_size > 10_000


def test_every_label_carries_its_evidence(run):
    label = LabelStore(str(run[0])).labels().head(1).to_pylist()[0]
    models = {note["step"]: note["model"] for note in label["models"]}
    assert set(models) >= {"mentions", "candidates", "link", "select"}
    assert all("@" in model for model in models.values())
    winner = [c for c in label["candidates"] if c["entity_id"] == label["entity_id"]]
    assert winner
    assert all(c[key] is not None for c in winner for key in ("prior", "link_score", "image_cosine", "image_score"))


def test_a_dry_run_prints_the_plan_and_labels_nothing(kb, tmp_path):
    out = tmp_path / "dry"
    line = ["--recipe", "miniworld", "--kb", kb, "--out", out, "--dry-run", "--rows", "1000000000"]
    done = start("label", *line)
    assert done.returncode == 0, done.stderr
    for word in ("select", "rows/s an actor", "1,000,000,000 rows", "bottleneck", "hours", "cost"):
        assert word in done.stdout
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--kb", "nowhere", "--out", "x", "--source", "miniworld://?rows=1"], "nowhere is no knowledge base"),
        (["--out", "x", "--source", "miniworld://?rows=1"], "--kb is missing"),
        (["--select.min-scor", "1"], "no flag --select.min-scor. Did you mean '--select.min-score'?"),
    ],
)
def test_a_wrong_line_is_one_message_and_status_2(line, message):
    done = called("label", *line)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_wrong_line_ends_the_process_with_status_2():
    done = start("label", "--recipe", "miniwrld")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean 'miniworld'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # label/test_run.py: a step that cannot be built; label/test_mentions.py: what is said of a pipeline
def test_wrong_model_names_end_the_job_with_the_way_out(kb, tmp_path):
    line = ["--recipe", "miniworld", "--source", "miniworld://?rows=10", "--kb", kb, "--out", tmp_path / "x"]
    done = start("label", *line, "--mentions.spacy", "en_core_web_xyz")
    assert done.returncode == 2
    assert "en_core_web_xyz" in done.stderr.splitlines()[-1]


def test_a_table_of_one_segment_ends_as_well_as_it_began(kb, tmp_path):
    """Ray goes while the report is made: what Ray Data left behind must not pull the process down with it."""
    source = open_source(SourceConfig(uri="miniworld://?rows=120&seed=12"))
    rows = [row for shard in source.shards() for chunk in source.read(shard) for row in chunk.to_pylist()]
    images = source.image_bytes([row["image"] for row in rows])
    pairs = [{"image": image, "caption": row["caption"], "key": row["key"]} for row, image in zip(rows, images)]
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    line = ["--recipe", "miniworld", "--source", tmp_path / "pairs.parquet", "--kb", kb, "--out", tmp_path / "out"]
    done = start("label", *line)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["rows_in"] == 120
