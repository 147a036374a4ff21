import json
import shutil
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from raylab.errors import RaylabError
from raylab.models.clip import ClipConfig, ClipEncoder


@pytest.fixture(scope="module")
def encoder(tiny_clip):
    return ClipEncoder.load(str(tiny_clip), device="cpu")


@pytest.fixture(scope="module")
def reference(tiny_clip):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}")
    return model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{tiny_clip}")


def pictures(sizes=((32, 32), (57, 33), (20, 90), (128, 64))):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def test_images_are_embedded_exactly_as_open_clip_does(encoder, reference):
    model, transform, _ = reference
    images = pictures()
    with torch.inference_mode():
        expected = model.encode_image(torch.stack([transform(image) for image in images]), normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_images(images), expected, atol=1e-5)


def test_the_batched_pixels_equal_open_clips_transform(encoder, reference):
    _, transform, _ = reference
    for image in pictures():
        pixels = torch.from_numpy(encoder.preprocess(image).copy()).permute(2, 0, 1).float().div(255)
        assert torch.equal(encoder._normalise(pixels), transform(image))


def test_texts_are_embedded_as_open_clip_does_though_padding_is_trimmed(encoder, reference):
    model, _, tokenizer = reference
    texts = ["a", "Lima: signal flag", "", "ünïcödé ☃", "a very long text " * 20]
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(texts), normalize=True).numpy()
    assert encoder._trims_texts
    np.testing.assert_allclose(encoder.encode_texts(texts), expected, atol=1e-5)


def test_vectors_have_length_one_and_do_not_depend_on_the_batch(tiny_clip, encoder):
    one_by_one = ClipEncoder.load(str(tiny_clip), batch=1)
    images, texts = pictures(), ["France: flag", "b", "ccc"]
    for left, right in [
        (encoder.encode_images(images), one_by_one.encode_images(images)),
        (encoder.encode_texts(texts), one_by_one.encode_texts(texts)),
    ]:
        assert left.dtype == np.float32 and left.shape == (len(right), encoder.dim)
        np.testing.assert_allclose(np.linalg.norm(left, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_nothing_in_nothing_out(encoder):
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, encoder.dim)


def test_reduced_precision_stays_close(tiny_clip, encoder):
    reduced = ClipEncoder.load(str(tiny_clip), precision="bf16")
    cosine = (reduced.encode_images(pictures()) * encoder.encode_images(pictures())).sum(axis=1)
    assert cosine.min() > 0.999
    texts = ["France", "the flag of France"]
    assert (reduced.encode_texts(texts) * encoder.encode_texts(texts)).sum(axis=1).min() > 0.999


def test_it_tells_what_it_is(tiny_clip, encoder):
    assert encoder.id == "tiny-clip"
    assert len(encoder.revision) == 12
    assert encoder.image_side == 32
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_the_revision_follows_the_files_not_their_place(tiny_clip, encoder, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_clip, moved)
    assert ClipEncoder.load(f"local-dir:{moved}").revision == encoder.revision
    config = json.loads((moved / "open_clip_config.json").read_text())
    (moved / "open_clip_config.json").write_text(json.dumps(config, indent=1))
    assert ClipEncoder.load(str(moved)).revision != encoder.revision


def test_a_checkpoint_needs_an_architecture_that_fits(tiny_clip):
    weights = str(tiny_clip / "open_clip_model.safetensors")
    with pytest.raises(RaylabError, match="another architecture"):
        ClipEncoder.load("RN50", weights)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-23", "openai", "Did you mean 'ViT-B-"),
        ("ViT-B-32", None, "weights are needed"),
        ("ViT-B-32", "openia", "Did you mean 'openai'"),
        ("local-dir:/nowhere/at/all", None, "open_clip_config.json"),
    ],
)
def test_wrong_names_are_answered_with_the_way_out(name, pretrained, message):
    with pytest.raises(RaylabError, match=message):
        ClipEncoder.load(name, pretrained)


def test_missing_weights_offline_say_how_to_get_them(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name, tag in [("ViT-B-32", "laion2b_s34b_b79k"), ("hf-hub:nobody/nothing", None)]:
        with pytest.raises(RaylabError, match="copy the hub's cache folder"):
            ClipEncoder.load(name, tag)


def test_damaged_and_missing_weights_are_one_clear_error(tiny_clip, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_clip, folder)
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RaylabError, match="damaged"):
        ClipEncoder.load(str(folder))
    weights.unlink()
    with pytest.raises(RaylabError, match="no weights there"):
        ClipEncoder.load(str(folder))


def test_a_folder_takes_no_tag(tiny_clip):
    with pytest.raises(RaylabError, match="set pretrained to null"):
        ClipEncoder.load(str(tiny_clip), "openai")


def test_a_gpu_that_is_not_there_is_said(tiny_clip, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RaylabError, match="no GPU"):
        ClipConfig(str(tiny_clip), None).load("cuda")


def test_embeddings_that_are_not_finite_are_refused(tiny_clip):
    broken = ClipEncoder.load(str(tiny_clip))
    broken._model.visual.proj.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="set precision"):
        broken.encode_images(pictures())


def test_importing_the_module_loads_no_torch():
    code = "import sys, raylab.models.clip; sys.exit('torch' in sys.modules or 'open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
