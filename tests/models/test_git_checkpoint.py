"""A GIT of Hugging Face by its folder: the same network, asked as it was trained to be asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from models.small_checkpoint import write_checkpoint
from PIL import Image

from raylab.errors import RaylabError
from raylab.evaluate.models import ModelConfig, find_model, open_model
from raylab.models.git_checkpoint import GitCheckpoint
from raylab.models.git_module import SavedGit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("hub") / "git-tiny")


def test_its_answers_have_hugging_faces_probabilities(folder: Path) -> None:
    """The question, and then the answer, stand behind one start token."""
    from transformers import AutoTokenizer, GitForCausalLM

    config = ModelConfig(str(folder))
    assert find_model(str(folder)) == str(folder)
    titles, question = ["red rose", "flag", "a red flag"], "what is this?"
    recogniser = open_model(config).namer(titles)  # type: ignore[misc]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8))
    theirs, words = GitForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pixel = torch.from_numpy(np.array(picture.crop((0, 4, 32, 36)))).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    for asked in (question, ""):
        before = words(asked, add_special_tokens=False)["input_ids"]
        found = {one.text: one.score for one in recogniser.recognise([picture], [asked], 3)[0]}
        for title in titles:
            answer = words(title, add_special_tokens=False)["input_ids"]
            text = torch.tensor([[2, *before, *answer, 3]])
            with torch.no_grad():
                logits = theirs(input_ids=text, pixel_values=(pixel - mean) / std).logits[0, -text.shape[1] :]
            steps = logits.log_softmax(-1)[:-1].gather(-1, text[0, 1:, None])
            assert found[title] == pytest.approx(float(steps[len(before) :].sum()), abs=1e-3)


def test_pixels_are_clips_where_the_checkpoint_does_not_say(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "git")
    (folder / "preprocessor_config.json").unlink()
    found = GitCheckpoint(str(folder)).preprocess
    assert found["size"] == 32 and found["mean"][0] == pytest.approx(0.4815, abs=1e-4)


def test_what_is_no_checkpoint_is_said(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(RaylabError, match=r"cannot be loaded .*folder with config\.json and the weights"):
        GitCheckpoint(str(tmp_path)).build(4, 4, weights=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(RaylabError, match="is a bert and no GIT"):
        GitCheckpoint(str(tmp_path)).build(4, 4, weights=False)


def test_the_revision_is_the_weights(folder: Path, tmp_path: Path) -> None:
    assert SavedGit.open(folder).revision == SavedGit.open(write_checkpoint(tmp_path / "same")).revision
    assert SavedGit.open(folder).revision != SavedGit.open(write_checkpoint(tmp_path / "other", seed=1)).revision
