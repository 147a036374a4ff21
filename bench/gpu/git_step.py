"""A training step of GiT-Large in bf16, by batch: images/s, and its share of what the device's matrix unit can do.

    python bench/gpu/git_step.py [--tiny]              # one JSON line; --tiny: small and quick, on a CPU too

Needs torch and timm besides this repository. A step is forward, loss (smoothing 0.2), backward and AdamW, on pictures
of 224 pixels with 32 + 32 tokens of text that are in memory; of one batch also with torch.compile. Model FLOPs are 3
times those of the forward pass's matrix products, computed by `forward_flops`; what checkpointing computes twice is not
counted. The peak is measured: the best of some products of square matrices in bf16. Rounds are interleaved; medians
are reported, with every round. A batch that does not fit is null. Aim: 0.5 of the peak.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from git_decode import make_git

from raylab.models.git import Git

BATCHES = (64, 128, 256)
COMPILED = (128,)
"""A batch that is compiled takes about a minute to compile."""
ROUNDS, STEPS = 5, 4
SMOOTHING = 0.2


def forward_flops(git: Git, images: int, pixels: int) -> float:
    """Return the FLOPs of a picture's forward pass; a multiplication and an addition are two.

    Args:
        git: its encoder is a vision transformer of timm with an MLP of four times its width.
        images: its tokens.
        pixels: numbers that a patch has.
    """
    config, trunk = git.config, git.encoder.trunk
    text = config.context + config.target
    patches = 2 * pixels * trunk.embed_dim * (images - 1)
    encoder = len(trunk.blocks) * _layer_flops(trunk.embed_dim, images, images * images)
    project = 2 * trunk.embed_dim * config.width * images
    # Image tokens see each other, text sees all; behind the last layer's keys and values image tokens are dropped.
    pairs = images * images + text * (images + text)
    decoder = config.layers * _layer_flops(config.width, images + text, pairs)
    decoder -= 2 * 9 * config.width**2 * images + 4 * images * images * config.width
    return patches + encoder + project + decoder + 2 * config.width * config.vocab * config.target


def _layer_flops(width: int, tokens: int, pairs: int) -> float:
    """FLOPs of a transformer layer: 12 width^2 weights a token, two products of `width` a pair of query and key."""
    return 2 * 12 * width**2 * tokens + 4 * pairs * width


def matrix_peak(device: str, side: int) -> float:
    """Return the most FLOP/s that products of square bf16 matrices reach."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = [timed(lambda: left @ right, device) for _ in range(30)]
    return 2 * side**3 / min(seconds)


def timed(work: Callable[[], object], device: str) -> float:
    """Return the seconds of some work on the device."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Trained:
    """Something that trains, timed: it has ``batch(count)`` and ``run(batch, steps)``."""

    device: str
    optimiser: torch.optim.Optimizer
    batch: Callable[[int], Any]
    run: Callable[[Any, int], None]

    def images_per_s(self, count: int, steps: int) -> float | None:
        """Return the speed of a batch of this size, or None where it does not fit; the first call compiles."""
        if self.device == "cuda":
            torch.cuda.empty_cache()  # what another case left in pieces
        try:
            batch = self.batch(count)
            return count * steps / timed(lambda: self.run(batch, steps), self.device)
        except torch.cuda.OutOfMemoryError:
            self.optimiser.zero_grad()
            torch.cuda.empty_cache()
            return None


class Step(Trained):
    """A GiT, its optimiser and a batch."""

    def __init__(self, git: Git, device: str, compiled: bool) -> None:
        self.git = git
        self.call = torch.compile(git, dynamic=False) if compiled else git
        self.optimiser = torch.optim.AdamW(git.parameters(), lr=1e-5, weight_decay=0.0, fused=device == "cuda")
        self.device = device

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return pictures, questions and answers; half of their tokens are padding, as of short texts."""
        config = self.git.config
        image_BCHW = torch.randn(count, 3, 224, 224, device=self.device)
        context_BC = torch.randint(1000, config.vocab, (count, config.context), device=self.device)
        target_BT = torch.randint(1000, config.vocab, (count, config.target), device=self.device)
        context_BC[:, config.context // 2 :] = config.pad
        target_BT[:, config.target // 2 :] = config.pad
        return image_BCHW, context_BC, target_BT

    def run(self, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], steps: int) -> None:
        """Train for some steps."""
        for _ in range(steps):
            with torch.autocast(self.device, torch.bfloat16):
                loss = self.git.loss(self.call(*batch), batch[2], SMOOTHING)
            loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad()


def main(tiny: bool) -> None:
    """Measure in turn and print the JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches, rounds_wanted, steps = ((2, 3), 2, 1) if tiny else (BATCHES, ROUNDS, STEPS)
    peak = matrix_peak(device, 512 if tiny else 8192)
    git = make_git(tiny).to(device).train()
    kinds = {"eager": Step(git, device, False), "compiled": Step(git, device, True)}
    kinds = {kind: step for kind, step in kinds.items() if device == "cuda" or kind == "eager"}
    cases = [(kind, count) for kind in kinds for count in batches if kind == "eager" or count in COMPILED]
    fits = [case for case in cases if kinds[case[0]].images_per_s(case[1], 1)]  # warm up, compile
    rounds = [
        {f"{kind} {count}": kinds[kind].images_per_s(count, steps) for kind, count in fits}
        for _ in range(rounds_wanted)
    ]
    patch = git.encoder.trunk.patch_embed.patch_size[0]
    flops = 3 * forward_flops(git, (224 // patch) ** 2 + 1, 3 * patch * patch)
    speed = {
        case: statistics.median(one[case] for one in rounds) for case in rounds[0] if all(one[case] for one in rounds)
    }
    result = {
        "figure": "images/s of a training step, by batch",
        "images_per_s": {
            f"{kind} {count}": round(speed[f"{kind} {count}"], 1) if f"{kind} {count}" in speed else None
            for kind, count in cases
        },
        "share_of_peak": {case: round(rate * flops / peak, 3) for case, rate in speed.items()},
        "asked": 0.5,
        "peak_tflops": round(peak / 1e12, 2),
        "step_gflops_per_image": round(flops / 1e9, 1),
        "parameters": sum(parameter.numel() for parameter in git.parameters()),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "rounds": rounds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main("--tiny" in sys.argv[1:])
