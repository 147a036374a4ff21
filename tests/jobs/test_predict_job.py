"""jobs/predict.py as a user starts it, with the mini-world's CLIP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evaluate.small_git import saved_git
from evaluate.small_sets import ColourNamer
from PIL import Image
from train.training_store import make_store

from raylab.evaluate.predict import PredictConfig
from raylab.evaluate.predict import predict as in_process
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
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


def test_a_generative_model_is_asked_the_question(tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=24, parts=1)
    run = saved_git(store, tmp_path / "run")
    images = []
    for row in [sample(5, i) for i in range(3)]:
        images.append(tmp_path / f"{row.index}.png")
        picture(row).save(images[-1])
    line = ["--model", run, "--kb", store.kb, "--threads", 1, "--batch", 2, "--k", 2, "--decoding.beams", 4]
    done = predict(*line, "--question", "which flag is on the left?", *images)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["image"] for answer in answers] == [str(path) for path in images]
    for answer in answers:
        first, second = (one["score"] for one in answer["entities"])
        assert 0 > first >= second
        assert {one["entity_id"] in Catalog.open(store.kb).ids.to_pylist() for one in answer["entities"]} == {True}


def test_pictures_are_opened_in_groups_and_no_larger_than_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = []
    for number in range(5):
        names.append(str(tmp_path / f"{number}.jpg"))
        Image.new("RGB", (640, 480)).save(names[-1])
    seen = []

    class Recorder(ColourNamer):
        def recognise(self, images, questions, k):  # type: ignore[no-untyped-def]
            seen.append([image.size for image in images])
            return super().recognise(images, questions, k)

    monkeypatch.setattr("raylab.evaluate.predict.as_recogniser", lambda model, kb: Recorder())
    answers = list(in_process(PredictConfig(images=tuple(names), model="m", kb="k", batch=2)))
    assert [answer["image"] for answer in answers] == names
    assert seen == [[(80, 60)] * 2, [(80, 60)] * 2, [(80, 60)]]


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
