"""Any open_clip model can be trained: what its outputs need gets a gradient, and the rest rests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raylab.models.dual_encoder import DualEncoder, DualEncoderConfig

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
