"""A GIT of Hugging Face of a few thousand weights, as its files lie in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, *LETTERS, *(f"##{one}" for one in LETTERS), "red", "rose", "flag", "what", "is", "this", "?", ".")


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write config, weights, tokenizer and the preprocessor's settings; return the folder."""
    from transformers import BertTokenizerFast, GitConfig, GitForCausalLM, GitVisionConfig

    vision = GitVisionConfig(
        hidden_size=40, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16
    )
    config = GitConfig(
        vision_config=vision.to_dict(), vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=80, pad_token_id=0, bos_token_id=2,
        eos_token_id=3,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = GitForCausalLM(config)
    for parameter in model.parameters():  # far from the small initial values: a slip would be seen
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    pixels = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder
