"""jobs/label.py --recipe rew_miniworld as a user starts it: real Ray, real vLLM on the CPU, the mini annotator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raylab.label.store import LabelStore

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # a start of the engine: half a minute on an idle machine


def start(job: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, f"jobs/{job}.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> tuple[Path, list[object]]:
    folder = tmp_path_factory.mktemp("rew")
    kb, labels, out = folder / "kb", folder / "labels", folder / "out"
    source = "miniworld://?rows=300&seed=1050"
    keep_all = ["--store.min-entity-images", 1]
    for job, arguments in (
        ("build_kb", ["--catalogues", "miniworld://", "--out", kb]),
        ("label", ["--recipe", "miniworld", "--source", source, "--kb", kb, "--out", labels, *keep_all]),
    ):
        done = start(job, *arguments)
        assert done.returncode == 0, done.stderr
    line = ["--recipe", "rew_miniworld", "--source", labels, "--kb", kb, "--out", out, "--sample-rows", 100, *keep_all]
    return out, line


@pytest.fixture(scope="module")
def run(lines) -> tuple[Path, dict]:
    out, line = lines
    done = start("label", *line)
    assert done.returncode == 0, done.stderr[-4000:]
    return out, json.loads(done.stdout.splitlines()[-1])


def test_the_last_line_is_the_summary_and_counts_close(run):
    _, last = run
    assert list(last) == ["rows_in", "labelled", "rejected", "failed", "seconds", "out", "truth"]
    assert last["rows_in"] == 100 == last["labelled"] + last["rejected"] + last["failed"]
    assert last["failed"] == 0


def test_looking_again_finds_more_and_stays_right(run):
    truth = run[1]["truth"]
    assert truth["verify"]["precision"] > 0.9
    assert truth["verify"]["recall"] > truth["select"]["recall"]


def test_every_label_is_explained_and_asked_about(run):
    rows = LabelStore(str(run[0])).labels().to_table(columns=["annotation", "models"]).to_pylist()
    assert rows
    for row in rows:
        said = row["annotation"]
        assert said["decision"] in ("verified", "corrected")
        assert said["rationale"]
        assert 1 <= len(said["questions"]) <= 3
        assert 0 < said["confidence"] <= 1
        assert [prompt.partition("@")[0] for prompt in said["prompts"]] == ["verify/mini-1", "questions/mini-1"]
        assert "verify" in {note["step"] for note in row["models"]}


def test_the_same_line_again_asks_nothing(run, lines):
    out, line = lines
    before = sorted(path.name for path in (out / "rounds").iterdir())
    done = start("label", *line)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1])["labelled"] == run[1]["labelled"]
    assert sorted(path.name for path in (out / "rounds").iterdir()) == before


def test_the_report_shows_labels_before_and_after(run):
    shown = (run[0] / "report.html").read_text()
    assert all(word in shown for word in ("Verified", "verify/mini-1@", "questions"))
