"""Operations of the models that `raylab/scale/rates.toml` counts a GPU's time by: GFLOP a row, by torch's own counter.

    .venv/bin/python bench/model_flops.py        # seconds: the models have no weights (torch's meta device)

A multiplication and an addition are two. Training is three times the forward pass (backward twice); what activation
checkpointing computes twice is not counted. The class table of MOFI (16,384 sampled classes) is below 0.2 %.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib.metadata import version

import torch
from torch.utils.flop_counter import FlopCounterMode

from raylab.models.clip import ClipConfig
from raylab.models.dual_encoder import DualEncoderConfig, image_side
from raylab.models.git import Git, GitConfig
from raylab.models.git_weights import OpenClipTokens
from raylab.recipes.train import MINIWORLD_ENCODER, ger_ald, git_large, git_miniworld
from raylab.tasks.git import GitTask

VOCAB = 30_522
"""Tokens of the recipes' tokenizer, which need not be at hand."""


def counted(call: object, *inputs: torch.Tensor) -> float:
    """Return the GFLOP of one call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(*inputs)  # type: ignore[operator]
    return counter.get_total_flops() / 1e9


def dual_encoder(config: DualEncoderConfig) -> dict[str, float]:
    """Return what a picture takes, and a text."""
    clip = config.build().clip.to("meta").eval()
    side = clip.visual.image_size
    with torch.device("meta"):
        size = side if isinstance(side, int) else side[0]
        image_BCHW = torch.zeros(1, 3, size, size)
        token_BL = torch.zeros(1, clip.context_length, dtype=torch.long)
        return {"image": counted(clip.encode_image, image_BCHW), "text": counted(clip.encode_text, token_BL)}


def git(task: GitTask) -> float:
    """Return what a picture with one text takes."""
    tower = replace(task.encoder, pretrained=None).build().clip.visual
    side = image_side(dict(tower.preprocess_cfg))
    tokens = OpenClipTokens(tower)
    config = GitConfig(image_width=tokens.width, vocab=VOCAB, pad=0, bos=1, eos=2, **asdict(task.shape))
    network = Git(config, tokens).to("meta").eval()
    with torch.device("meta"):
        image_BCHW = torch.zeros(1, 3, side, side)
        context_BRC = torch.zeros(1, 1, task.shape.context, dtype=torch.long)
        target_BRT = torch.zeros(1, 1, task.shape.target, dtype=torch.long)
    return counted(network, image_BCHW, context_BRC, target_BRT)


def main() -> None:
    """Count and print the JSON."""
    selecting = dual_encoder(DualEncoderConfig(name=ClipConfig().name))
    trained = {"mofi_b16": dual_encoder(DualEncoderConfig()), "mofi_miniworld": dual_encoder(MINIWORLD_ENCODER)}
    gits = {name: git(recipe().task) for name, recipe in
            {"git_large": git_large, "ger_ald": ger_ald, "git_miniworld": git_miniworld}.items()}  # fmt: skip
    result = {
        "select_gflop": selecting["image"],
        "forward_gflop": trained | {"select": selecting} | gits,
        "train_gflop": {name: 3 * sum(parts.values()) for name, parts in trained.items()}
        | {name: 3 * count for name, count in gits.items()},
        "versions": {name: version(name) for name in ("torch", "open-clip-torch")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
