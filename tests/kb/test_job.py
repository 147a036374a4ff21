from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from kb.small_catalogue import ROWS, write_rows

JOB = Path(__file__).parents[2] / "jobs" / "build_kb.py"


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(JOB), *arguments], capture_output=True, text=True, check=False)


def test_the_last_line_sums_up(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "bad.jsonl").write_text("oops\n")
    done = run("--out", str(tmp_path / "kb"), "--catalogues", rows, str(tmp_path / "bad.jsonl"), "--no-context")
    assert done.returncode == 0
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["entities"] == len(ROWS)
    assert summary["bad"] == 1
    assert summary["out"] == str(tmp_path / "kb")
    assert "line 1: not JSON: oops" in done.stderr


def test_what_the_user_can_put_right_is_one_message(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "kb"), "--catalogues", str(tmp_path / "missing.jsonl"))
    assert done.returncode == 2
    assert "missing.jsonl cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
