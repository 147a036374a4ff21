"""Any open_clip model can be trained: what its outputs need gets a gradient, and the rest rests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raylab.errors import RaylabError
from raylab.models.clip import ClipConfig
from raylab.models.dual_encoder import DualEncoder, DualEncoderConfig
from raylab.sources.miniworld.make_clip import SHIPPED

SIDE, LENGTH = 32, 8
TEXT = {"context_length": LENGTH, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}
TOWER = {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
TIMM = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "image_size": 160}
CONVNEXT = {"timm_model_name": "convnext_atto", "timm_model_pretrained": False, "image_size": SIDE}
MODELS: dict[str, dict[str, Any]] = {
    "clip": {"vision_cfg": TOWER, "text_cfg": TEXT},
    "resnet": {"vision_cfg": TOWER | {"layers": [1, 1, 1, 1], "width": 8}, "text_cfg": TEXT},
    "siglip": {
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": TIMM | {"timm_pool": "map", "timm_proj": "none"},
        "text_cfg": TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "convnext": {"custom_text": True, "vision_cfg": CONVNEXT | {"timm_proj": "mlp"}, "text_cfg": TEXT},
    "roberta": {
        "vision_cfg": TOWER,
        "text_cfg": {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler", "context_length": LENGTH},
    },
    "coca": {
        "custom_text": True,
        "multimodal_cfg": TEXT | {"attn_pooler_heads": 2},
        "vision_cfg": TOWER | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
    },
}
RESTING = {"siglip": ["clip.logit_bias"], "coca": ["clip.text_decoder"]}


ROBERTA = {
    "model_type": "xlm-roberta",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": LENGTH + 2,
    "pad_token_id": 1,
}
"""A text tower of Hugging Face; open_clip takes the mean of its tokens, not what its pooler makes of the first."""


def build(name: str, folder: Path) -> DualEncoder:
    config = {"model_cfg": {"embed_dim": 64} | MODELS[name], "preprocess_cfg": {}}
    if name == "roberta":
        (folder / "text").mkdir()
        (folder / "text" / "config.json").write_text(json.dumps(ROBERTA))
        config["model_cfg"]["text_cfg"] = MODELS[name]["text_cfg"] | {"hf_model_name": str(folder / "text")}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    return DualEncoderConfig(str(folder), from_scratch=True).build()


@pytest.mark.parametrize("name", MODELS)
def test_a_parameter_is_trained_if_the_outputs_need_it(name: str, tmp_path: Path) -> None:
    module = build(name, tmp_path)
    images = torch.randint(256, (3, module.image_size, module.image_size, 3), dtype=torch.uint8)
    outputs = module(images, torch.randint(1, 99, (3, LENGTH)))
    weights = {key: torch.randn_like(value) for key, value in outputs.items()}
    torch.stack([(weights[key] * value).sum() for key, value in outputs.items()]).sum().backward()
    named = dict(module.named_parameters())
    assert {key for key, one in named.items() if one.requires_grad} == {
        key for key, one in named.items() if one.grad is not None
    }
    resting = {key for key, one in named.items() if not one.requires_grad}
    assert all(any(key.startswith(one) for key in resting) for one in RESTING.get(name, []))
    assert all(any(key.startswith(one) for one in RESTING.get(name, [])) for key in resting)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_sharded_is_the_blocks(name: str, tmp_path: Path) -> None:
    """None within another, as FSDP wants it; much of the towers lies in some block."""
    module = build(name, tmp_path)
    units = module.shard_units()
    within = {id(one) for unit in units for one in unit.modules() if one is not unit}
    assert len(units) >= 4
    assert not within & {id(unit) for unit in units}
    parameters = sum(one.numel() for unit in units for one in unit.parameters())
    towers = [value for key, value in module.named_parameters() if "embedding" not in key and "text_decoder" not in key]
    assert parameters > 0.3 * sum(one.numel() for one in towers)


def cache(folder: Path, repo: str) -> None:
    """Lay the mini-world's CLIP into a hub's cache, as if it had been fetched; its tokenizer is one of the hub, too."""
    place = folder / f"models--{repo.replace('/', '--')}"
    shutil.copytree(SHIPPED, place / "snapshots" / "0123")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123")
    (place / ".no_exist" / "0123").mkdir(parents=True)
    (place / ".no_exist" / "0123" / "config.json").touch()  # transformers', of which the hub has said that it has none
    path = place / "snapshots" / "0123" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = repo
    path.write_text(json.dumps(config))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache, and no network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_model_of_the_hub_is_trained_and_saved_whole(hub: Path, tmp_path: Path) -> None:
    """With its tokenizer: open_clip looks for that in a folder's own files alone."""
    cache(hub, "somebody/flags")
    config = DualEncoderConfig("hf-hub:somebody/flags")
    assert config.model_config()["model_cfg"]["vision_cfg"]["image_size"] == 64
    module = config.build()
    shipped = DualEncoderConfig(str(SHIPPED)).build()
    for name, value in shipped.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value)
    scratch = DualEncoderConfig("hf-hub:somebody/flags", from_scratch=True).build()
    assert not torch.equal(scratch.clip.visual.conv1.weight, module.clip.visual.conv1.weight)
    config.save(module, tmp_path / "saved")
    shutil.rmtree(hub)
    texts = ["the flag of Greece", "a red buoy"]
    found, expected = (
        ClipConfig(name=str(folder), pretrained=None).load().encode_texts(texts)
        for folder in (tmp_path / "saved", SHIPPED)
    )
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected))


def test_what_is_not_to_be_had_of_the_hub_is_said(hub: Path, tmp_path: Path) -> None:
    """As an error of ours: another one would begin a run's workers again."""
    with pytest.raises(RaylabError, match=r"hf-hub:nobody/nothing: .* copy the hub's cache folder"):
        DualEncoderConfig("hf-hub:nobody/nothing").model_config()
    with pytest.raises(RaylabError, match=r"CLIP roberta-ViT-B-32: cannot be built .* HF_HOME"):
        DualEncoderConfig("roberta-ViT-B-32").build()
    with pytest.raises(RaylabError, match=r"CLIP ViT-B-16-SigLIP, its tokenizer: cannot be built .* HF_HOME"):
        DualEncoderConfig("ViT-B-16-SigLIP").tokenizer()


def test_a_checkpoint_of_another_architecture_is_said(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"visual.conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(RaylabError, match=r"CLIP RN50/other.pt: cannot be built .*another architecture"):
        DualEncoderConfig("RN50", pretrained=str(path)).build()
