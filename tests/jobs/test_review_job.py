"""jobs/review.py as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from label.finished_run import make_run

ROOT = Path(__file__).parents[2]


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "jobs/review.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_out_judged_and_back(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=300, annotated=True, source="miniworld://?rows=300&seed=7")
    out = tmp_path / "tasks.json"
    done = start(
        "export", "--labels", run.out, "--out", out, "--format", "label-studio", "--rows", 40, "--precision", 0.9
    )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["rows"] == 40
    assert all(Path(name).exists() for name in last["files"])
    tasks = json.loads(out.read_text())
    for number, task in enumerate(tasks):
        verdict = {"choices": ["wrong" if number % 8 == 0 else "right"]}
        task["annotations"] = [{"result": [{"from_name": "verdict", "value": verdict}]}]
    out.write_text(json.dumps(tasks))
    done = start("import", "--labels", run.out, "--reviews", out, "--format", "label-studio")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["judged"], last["measured_by"]) == (40, "review")
    assert 0.5 < last["steps"]["verify"]["low"] < last["steps"]["verify"]["precision"] < 1
    assert last["thresholds"]["confidence"]["wanted"] == 0.9
    assert json.loads((run.out / "audit.json").read_text())["judged"] == 40


def test_a_wrong_line_is_one_message_and_status_2(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=30, source="miniworld://?rows=30&seed=7")
    (tmp_path / "bad.json").write_text('[{"data": {}}]')
    start("export", "--labels", run.out, "--out", tmp_path / "tasks.json", "--rows", 5)
    lines = {
        "no MANIFEST.json": ("export", "--labels", tmp_path, "--out", tmp_path / "x.json"),
        "bad.json: task 1: data.row_id: is missing": (
            "import",
            "--labels",
            run.out,
            "--reviews",
            tmp_path / "bad.json",
        ),
    }
    for message, line in lines.items():
        done = start(*line)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
    assert start("exprt").returncode == 2
