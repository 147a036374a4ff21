"""A pretraining step of MUG at ViT-B/16 in bf16, by batch: images/s, and its share of what the matrix unit can do.

    python bench/gpu/mug_step.py [--tiny]              # one JSON line; --tiny: small and quick, on a CPU too

MUG, MAE and masked captioning in turn, as `mug_b16` and its baselines have them: forward, losses, backward and AdamW on
uint8 pictures and captions of 32 tokens that are in memory. Model FLOPs are 3 times those of the forward pass as torch
counts them (matrix products, attention, convolutions). The peak is measured, as in git_step.py. Rounds are interleaved;
medians are reported, with every round. A batch that does not fit is null.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))

from git_step import Trained, matrix_peak

from raylab.models.captioner import CaptionShape, Vocabulary
from raylab.models.mae import PixelShape, VitConfig
from raylab.models.mug import Mug
from raylab.tasks.mug import WeightsConfig

BATCHES = (256, 512, 1024)
ROUNDS, STEPS = 5, 4
WORDS = Vocabulary(size=49_408, pad=0, start=49_406, end=49_407)
"""CLIP's, which `mug_b16` has."""
ARMS = {"mug": WeightsConfig(), "mae": WeightsConfig(caption=0), "masked_caption": WeightsConfig(reconstruction=0)}


def make(weights: WeightsConfig, tiny: bool) -> Mug:
    """Return an arm's network with random weights."""
    torch.manual_seed(0)
    encoder, pixels, text = VitConfig(), PixelShape(), CaptionShape()
    if tiny:
        encoder = VitConfig("vit_tiny_patch16_224", layers=2)
        pixels, text = PixelShape(width=64, layers=1, heads=2), replace(text, width=64, layers=1, heads=2)
    painted, written = weights.reconstruction > 0, weights.caption > 0
    return Mug.make(encoder, pixels if painted else None, (text, WORDS) if written else None, masked=0.75)


class Step(Trained):
    """A MUG, its optimiser, and how its losses are weighed."""

    def __init__(self, weights: WeightsConfig, device: str, tiny: bool) -> None:
        self.mug = make(weights, tiny).to(device).train()
        learnt = [parameter for parameter in self.mug.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(learnt, lr=1e-5, betas=(0.9, 0.95), fused=device == "cuda")
        self.weights, self.device = weights, device

    def batch(self, count: int) -> dict[str, Tensor]:
        """Return pictures, and captions of which half are padding."""
        image_BHWC = torch.randint(256, (count, 224, 224, 3), dtype=torch.uint8, device=self.device)
        if not self.weights.caption:
            return {"image_BHWC": image_BHWC}
        token_BT = torch.randint(1, WORDS.start, (count, CaptionShape().length), device=self.device)
        token_BT[:, 0], token_BT[:, token_BT.shape[1] // 2 :] = WORDS.start, WORDS.pad
        return {"image_BHWC": image_BHWC, "token_BT": token_BT}

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum."""
        noise_BN = torch.rand(len(batch["image_BHWC"]), self.mug.patches, device=self.device)
        with torch.autocast(self.device, torch.bfloat16):
            outputs, loss = self.mug(noise_BN=noise_BN, **batch), torch.zeros((), device=self.device)
            if self.mug.pixels is not None:
                loss = loss + self.mug.reconstruction_losses(outputs).mean()
            if self.mug.captions is not None:
                loss_BT, counts_BT = self.mug.captions.token_losses(outputs["logit_BTV"], batch["token_BT"])
                loss = loss + self.weights.caption * loss_BT.sum() / counts_BT.sum()
        return loss

    def run(self, batch: dict[str, Tensor], steps: int) -> None:
        """Train for some steps."""
        for _ in range(steps):
            self.loss(batch).backward()
            self.optimiser.step()
            self.optimiser.zero_grad()

    def forward_flops(self) -> float:
        """Return the FLOPs of a picture's forward pass; attention is written out, so that its products are counted."""
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            self.loss(self.batch(2))
        return counter.get_total_flops() / 2


def main(tiny: bool) -> None:
    """Measure in turn and print the JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches, rounds_wanted, steps = ((2, 3), 2, 1) if tiny else (BATCHES, ROUNDS, STEPS)
    peak = matrix_peak(device, 512 if tiny else 8192)
    arms = {name: Step(weights, device, tiny) for name, weights in ARMS.items()}
    flops = {name: 3 * arm.forward_flops() for name, arm in arms.items()}
    cases = [(name, count) for name in arms for count in batches]
    fits = [case for case in cases if arms[case[0]].images_per_s(case[1], 1)]  # warm up
    rounds = [
        {f"{name} {count}": arms[name].images_per_s(count, steps) for name, count in fits} for _ in range(rounds_wanted)
    ]
    speed = {
        case: statistics.median(one[case] for one in rounds) for case in rounds[0] if all(one[case] for one in rounds)
    }
    result = {
        "figure": "images/s of a pretraining step, by batch",
        "images_per_s": {
            f"{name} {count}": round(speed[f"{name} {count}"], 1) if f"{name} {count}" in speed else None
            for name, count in cases
        },
        "share_of_peak": {case: round(rate * flops[case.split()[0]] / peak, 3) for case, rate in speed.items()},
        "peak_tflops": round(peak / 1e12, 2),
        "step_gflops_per_image": {name: round(count / 1e9, 1) for name, count in flops.items()},
        "parameters": {name: sum(one.numel() for one in arm.mug.parameters()) for name, arm in arms.items()},
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "rounds": rounds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main("--tiny" in sys.argv[1:])
