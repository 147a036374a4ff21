"""The annotator's network and its folder: transformers' FastVLM, small, with a convolutional tower.

FastVLM is served by vLLM's backend for transformers models. Its tower is any convolutional network of timm; its last
feature map, 4 x 4, gives the 16 image tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raylab.sources.miniworld.scene import SIZE

STRIDE = 32
"""Pixels of the scene a side of an image token."""
IMAGE_TOKENS = (SIZE // STRIDE) ** 2
"""Image tokens of a picture."""
PAD, END, USER, ANSWER, SYSTEM, IMAGE = "<pad>", "<end>", "<user>", "<answer>", "<system>", "<image>"
SPECIAL = (PAD, END, USER, ANSWER, SYSTEM, IMAGE)

CHAT_TEMPLATE = """\
{%- for message in messages %}
{%- if message.role == 'system' %}<system>{% elif message.role == 'user' %}<user>{% else %}<answer>{% endif %}
{%- if message.content is string %}{{ message.content }}
{%- else %}{%- for part in message.content %}
{%- if part.type == 'text' %}{{ part.text }}{% else %}<image>{% endif %}
{%- endfor %}{%- endif %}<end>
{%- endfor %}
{%- if add_generation_prompt %}<answer>{% endif %}"""
"""Jinja: a message is its role's token, its parts in order, and the end token."""

_TOWER: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [24, 64, 128, 256], "stem_type": "deep", "stem_width": 12}
_WIDTH, _LAYERS, _HEADS, _INNER, _POSITIONS = 192, 3, 6, 512, 1024


def make_model(tokenizer: Any) -> Any:
    """A network with random weights, 3.0 M: 1.2 in the tower, 0.1 in the projector, the rest in the language."""
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration, LlamaConfig, TimmWrapperConfig

    channels = _TOWER["channels"][-1]
    more: dict[str, Any] = {"hidden_size": channels, "num_labels": 0}
    vision = TimmWrapperConfig(architecture="resnet10t", model_args=_TOWER, do_pooling=False, **more)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        head_dim=_WIDTH // _HEADS,
        intermediate_size=_INNER,
        max_position_embeddings=_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = FastVlmConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    return FastVlmForConditionalGeneration(config)


def make_processor(tokenizer: Any) -> Any:
    """Pictures of SIZE x SIZE go in as they are, their values in -1..1."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"height": SIZE, "width": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )


def feature_tokens(model: Any, image_BCHW: Any) -> Any:
    """The image tokens of pictures as the language model gets them, (B, IMAGE_TOKENS, width)."""
    return model.model.get_image_features(image_BCHW, return_dict=True).pooler_output


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write what `vllm.LLM(model=folder)` and transformers read; weights in half precision."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    copy = type(model)(model.config).eval()
    copy.load_state_dict(model.state_dict())
    copy.to(torch.float16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    make_processor(tokenizer).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
