"""jobs/predict.py as a user starts it, with the mini-world's CLIP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raylab.kb.build import BuildConfig, build
from raylab.sources.miniworld.make_clip import SHIPPED
from raylab.sources.miniworld.samples import picture, sample

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predict") / "kb"
    build(BuildConfig(catalogues=("miniworld://",), out=str(out)))
    return out


def predict(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "jobs/predict.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_names_what_is_in_pictures_and_says_which_it_cannot_open(kb: Path, tmp_path: Path) -> None:
    rows = [row for row in (sample(5, i) for i in range(40)) if len(row.entity_ids) == 1][:8]
    images = []
    for row in rows:
        images.append(tmp_path / f"{row.index}.png")
        picture(row).save(images[-1])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    done = predict("--model", SHIPPED, "--kb", kb, "--k", 3, *images, broken, tmp_path / "missing.jpg")
    assert done.returncode == 1, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["image"] for answer in answers] == [
        str(path) for path in (*images, broken, tmp_path / "missing.jpg")
    ]
    assert [len(answer["entities"]) for answer in answers[:8]] == [3] * 8
    right = [answer["entities"][0]["entity_id"] == row.entity_ids[0] for answer, row in zip(answers, rows)]
    assert sum(right) >= 6
    assert "image_corrupt" in answers[8]["refused"]
    assert "No such file" in answers[9]["refused"]


def test_mistakes_are_named(kb: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (("--model", SHIPPED, "--kb", kb), "no image is given"),
        (("--kb", kb, "x.jpg"), "--model is missing"),
        (("--model", SHIPPED, "--kb", tmp_path, "x.jpg"), "is no knowledge base"),
        (("--model", tmp_path, "--kb", kb, "x.jpg"), "neither open_clip_config.json nor git.json"),
    ):
        done = predict(*arguments)
        assert done.returncode == 2
        assert said in done.stderr
