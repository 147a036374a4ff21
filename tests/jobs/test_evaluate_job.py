"""jobs/evaluate.py as a user starts it: a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evaluate.small_sets import COLOURS, png
from jobs.in_process import called

ROOT = Path(__file__).parents[2]


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "jobs/evaluate.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of classes: pictures of one colour each, one of them broken."""
    root = tmp_path_factory.mktemp("classes")
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for shade in range(4):
            (root / name / f"{shade}.png").write_bytes(png(colour, 10 * shade))
    (root / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return root


@pytest.fixture(scope="module")
def alone(folder, tiny_clip, tmp_path_factory) -> tuple[Path, list[str]]:
    """The job in its own process, and what it printed."""
    out = tmp_path_factory.mktemp("job") / "out"
    line = ["--model", tiny_clip, "--suite", "retrieval,zero_shot", "--data", folder, "--out", out, "--no-plots"]
    code = (  # the exit status is 1 where Ray was imported
        "import sys; sys.path.insert(0, 'jobs'); import evaluate; status = evaluate.main(sys.argv[1:]);"
        "sys.exit(status or 'ray' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, line)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout.splitlines()


def test_one_table_then_one_line_of_json(alone):
    out, (*shown, last) = alone
    summary = json.loads(last)
    assert list(summary) == ["scores", "refused", "seconds", "out"]
    assert summary["refused"] == 1 and summary["out"] == str(out)
    assert "retrieval/leave-one-out/all/mAP" in summary["scores"]
    assert "zero_shot/prompt-ensemble/all/top-1" in summary["scores"]
    assert shown[0].split() == ["benchmark", "protocol", "part", "metric", "%", "over"]
    assert any("image_corrupt: 1" in line for line in shown)
    assert json.loads((out / "scores.json").read_text())["models"][0].startswith("tiny-clip@")


@pytest.mark.slow
def test_with_workers_the_scores_are_the_same(alone, folder, tiny_clip, tmp_path):
    """Without workers, Ray is not even imported: see `alone`."""
    line = ["--model", tiny_clip, "--suite", "retrieval,zero_shot", "--data", folder, "--no-plots", "--out", tmp_path]
    done = start(*line, "--workers", 1, "--threads", 1)
    assert done.returncode == 0, done.stderr
    scores = [json.loads(shown)["scores"] for shown in (alone[1][-1], done.stdout.splitlines()[-1])]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--suite", "retreival", "--model", "m", "--out", "x"], "Did you mean 'retrieval'?"),
        (["--suite", "retrieval", "--model", "m", "--out", "x"], "--retrieval.data is missing"),
        (
            ["--model", "no/model", "--data", "miniworld://?rows=20", "--out", "{tmp}", "--no-plots"],
            "neither an open_clip architecture nor",
        ),
        (["--data", "nowhere", "--model", "m", "--out", "{tmp}", "--no-plots"], "no such file"),
        (["--data", "miniworld://?row=3", "--model", "m", "--out", "{tmp}", "--no-plots"], "Did you mean 'rows'?"),
        (["--out", "x"], "--model is missing"),
    ],
)
def test_a_wrong_line_is_one_message_and_status_2(line, message, tmp_path):
    done = called("evaluate", *(word.replace("{tmp}", str(tmp_path)) for word in line))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_wrong_line_ends_the_process_with_status_2():
    done = start("--sute", "oven")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean '--suite'?" in done.stderr
    assert "Traceback" not in done.stderr
