"""MUG's image branch, which is MAE, against transformers' ViTMAEForPreTraining: images/s of a training step.

    .venv/bin/python bench/mae_step.py [steps] [rounds]        # 20 steps, 5 interleaved rounds

Both have the same shapes and weights, hide the same patches, and make the same step on one thread: forward, loss,
backward, AdamW, zero the gradients. Ours takes raw pixels, theirs floats that were normalised beforehand. Two shapes:
the mini-world's recipe, and half of MAE's (an encoder of 6 blocks of 384, a decoder of 4 of 256, at 224 pixels), which
a core can do. Before, their losses are compared. Asked: at least 1.0 of their images/s.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from raylab.models.dual_encoder import normalised
from raylab.models.mae import PixelShape, VitConfig, sines
from raylab.models.mug import Mug

WARM = 3
ASKED = 1.0


@dataclass(frozen=True)
class Shape:
    """What both networks are."""

    encoder: VitConfig
    pixels: PixelShape
    batch: int


SHAPES = {
    "miniworld": Shape(
        VitConfig("vit_tiny_patch16_224", image_size=64, patch=8, width=96, layers=4, heads=4),
        PixelShape(width=64, layers=2, heads=4),
        64,
    ),
    "half of MAE's": Shape(
        VitConfig("vit_small_patch16_224", width=384, layers=6, heads=6), PixelShape(width=256, layers=4, heads=8), 8
    ),
}


def of_hugging_face(shape: Shape) -> ViTMAEForPreTraining:
    """Return their network, random weights by torch's present seed."""
    encoder, pixels = shape.encoder, shape.pixels
    return ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=encoder.width,
            num_hidden_layers=encoder.layers,
            num_attention_heads=encoder.heads,
            intermediate_size=4 * encoder.width,
            image_size=encoder.side,
            patch_size=encoder.patch or 16,
            decoder_hidden_size=pixels.width,
            decoder_num_hidden_layers=pixels.layers,
            decoder_num_attention_heads=pixels.heads,
            decoder_intermediate_size=4 * pixels.width,
            layer_norm_eps=1e-6,
            mask_ratio=0.75,
            norm_pix_loss=True,
        )
    )


def _lay_positions(theirs: ViTMAEForPreTraining) -> None:
    """Set the fixed positions, which a new one of theirs has not (they come with published weights)."""
    embeddings, decoder = theirs.vit.embeddings, theirs.decoder
    grid = (round(embeddings.patch_embeddings.num_patches**0.5),) * 2
    for positions in (embeddings.position_embeddings, decoder.decoder_pos_embed):
        positions.data = sines(grid, positions.shape[-1], 1)


class Pair:
    """Both networks with the same weights, and what they look at."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(0)
        self.theirs = of_hugging_face(shape)
        _lay_positions(self.theirs)
        with tempfile.TemporaryDirectory() as folder:
            self.theirs.save_pretrained(folder)
            encoder = VitConfig(**(vars(shape.encoder) | {"weights": folder}))
            self.ours = Mug.make(encoder, shape.pixels, None, 0.75)
        self.ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the trainer's on a CPU
        side = shape.encoder.side
        self.image_BHWC = torch.randint(256, (shape.batch, side, side, 3), dtype=torch.uint8)
        self.noise_BN = torch.rand(shape.batch, self.ours.patches)
        self.image_BCHW = normalised(self.image_BHWC, self.ours.mean, self.ours.std).contiguous()

    def our_loss(self) -> Tensor:
        """Return ours."""
        outputs = self.ours(self.image_BHWC, self.noise_BN)
        return self.ours.reconstruction_losses(outputs).mean()

    def their_loss(self) -> Tensor:
        """Return theirs."""
        return self.theirs(self.image_BCHW, noise=self.noise_BN).loss


def images_per_s(module: torch.nn.Module, loss: Callable[[], Tensor], steps: int, batch: int) -> float:
    """Return the pictures a second of the steps behind the warm-up."""
    trained = [one for one in module.parameters() if one.requires_grad]
    optimizer, began = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05), 0.0
    for step in range(WARM + steps):
        if step == WARM:
            began = time.perf_counter()
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
    return steps * batch / (time.perf_counter() - began)


def compare(shape: Shape, steps: int, rounds: int) -> dict[str, Any]:
    """Measure both in turn."""
    pair, found = Pair(shape), []
    apart = abs(pair.our_loss().item() / pair.their_loss().item() - 1)
    for number in range(rounds):
        one = {}
        for name in ("ours", "theirs") if number % 2 == 0 else ("theirs", "ours"):
            module, loss = (pair.ours, pair.our_loss) if name == "ours" else (pair.theirs, pair.their_loss)
            one[name] = images_per_s(module, loss, steps, shape.batch)
        found.append(one | {"ratio": one["ours"] / one["theirs"]})
        print(found[-1], file=sys.stderr, flush=True)
    ratio = median(one["ratio"] for one in found)
    return {"ratio": ratio, "losses_apart": apart, "batch": shape.batch, "rounds": found}


def main(steps: int = 20, rounds: int = 5) -> None:
    """Measure, and print the JSON."""
    torch.set_num_threads(1)
    found = {name: compare(shape, steps, rounds) for name, shape in SHAPES.items()}
    result = {
        "ratio": {name: one["ratio"] for name, one in found.items()},
        "asked": ASKED,
        "steps": steps,
        "shapes": found,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "timm", "transformers")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
