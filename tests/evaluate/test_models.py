import json
import shutil

import numpy as np
import pytest
from evaluate.small_sets import COLOURS, ColourEncoder

from raylab.errors import RaylabError
from raylab.evaluate.models import (
    DecodingConfig,
    ModelConfig,
    NearestEntity,
    as_recogniser,
    find_model,
    is_generative,
    open_model,
)
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    rows = [{"id": f"c:{name}", "title": f"{name} flag", "aliases": [], "description": f"{name}"} for name in COLOURS]
    (folder / "colours.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    build(BuildConfig(str(folder / "kb"), (str(folder / "colours.jsonl"),), workers=1, context=False))
    return str(folder / "kb")


def test_a_model_is_a_folder_a_runs_folder_or_a_name(tiny_clip, tmp_path):
    assert find_model(str(tiny_clip)) == str(tiny_clip)
    shutil.copytree(tiny_clip, tmp_path / "run" / "model")
    assert find_model(str(tmp_path / "run")) == str(tmp_path / "run" / "model")
    assert find_model("ViT-B-32") == "ViT-B-32"
    assert find_model("hf-hub:owner/model") == "hf-hub:owner/model"
    assert find_model("package://raylab.sources.miniworld/assets/clip").endswith("assets/clip")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "--model is missing"),
        ("{tmp}", "neither open_clip_config.json nor git.json there, nor in"),
    ],
)
def test_what_is_no_model_is_refused_with_the_way_out(path, message, tmp_path):
    with pytest.raises(RaylabError, match=message):
        find_model(path.replace("{tmp}", str(tmp_path)))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(RaylabError, match="Did you mean 'ViT-B-"):
        open_model(ModelConfig("ViT-B-23", "openai"))
    with pytest.raises(RaylabError, match="'no/such/folder' is neither an open_clip architecture nor a folder"):
        open_model(ModelConfig("no/such/folder"))


def test_a_model_is_opened_once_in_a_process(tiny_clip):
    assert open_model(ModelConfig(str(tiny_clip))) is open_model(ModelConfig(str(tiny_clip)))


def test_the_nearest_entity_answers_whatever_is_asked(kb):
    from PIL import Image

    recogniser = NearestEntity(ColourEncoder(), Catalog.open(kb))
    pictures = [Image.new("RGB", (9, 9), colour) for colour in COLOURS.values()]
    said = recogniser.recognise(pictures, ["what?", "where?", "who?"], 2)
    assert [(one[0].entity_id, one[0].text) for one in said] == [(f"c:{n}", f"{n} flag") for n in COLOURS]
    assert all(np.isclose(one[0].score, 1, atol=1e-3) and one[0].score > one[1].score for one in said)
    assert [len(one) for one in recogniser.recognise(pictures, ["?"] * 3, 9)] == [3, 3, 3]
    assert recogniser.recognise([], [], 3) == []
    with pytest.raises(ValueError, match="3 images and 1 questions"):
        recogniser.recognise(pictures, ["?"], 1)


def test_a_dual_encoder_becomes_a_recogniser_with_a_knowledge_base(tiny_clip, kb):
    config = ModelConfig(str(tiny_clip))
    assert as_recogniser(config, kb).id == "nearest entity by tiny-clip"
    assert as_recogniser(config, kb) is as_recogniser(config, kb)
    with pytest.raises(RaylabError, match="--kb is missing"):
        as_recogniser(config, "")
    with pytest.raises(RaylabError, match="is no knowledge base"):
        as_recogniser(config, str(tiny_clip))


def test_a_generative_model_is_told_by_its_folder(tiny_clip, tmp_path):
    for name in ("run", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"recipe": "git_large"}')
    (tmp_path / "run" / "model" / "git.json").write_text("{}")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    assert is_generative(str(tmp_path / "run")) and not is_generative(str(tiny_clip)) and not is_generative("ViT-B-32")
    with pytest.raises(RaylabError, match="is no generative recogniser, or damaged"):
        open_model(ModelConfig(str(tmp_path / "run")))
    with pytest.raises(RaylabError, match=r"neither open_clip_config\.json nor git\.json there"):
        find_model(str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "--batch must be 1 or more"),
        ({"decoding": DecodingConfig(beams=0)}, "--decoding.beams must be 1 or more"),
        ({"precision": "int8"}, "--precision 'int8' is none of fp32, fp16, bf16"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(RaylabError, match=message):
        ModelConfig("m", **settings)
