"""What the trainer costs beyond its model: raylab's loop against a loop written by hand, and against open_clip's own.

    .venv/bin/python bench/train_step.py [steps] [rounds]        # 60 steps, 5 interleaved rounds

All three train the same CLIP (the mini-world's architecture, from random weights) with the same batches, which lie in
memory, on one thread: images/s of the steps alone, after ten to warm up. The bare loop does what a careful hand would
write: forward, loss, backward, clip, AdamW, zero_grad. open_clip's is its `train_one_epoch`. Asked: 0.95 of the bare
loop's images/s, and 1.0 of open_clip's.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch

from raylab.recipes.train import MINIWORLD_ENCODER
from raylab.tasks.base import Arrays, decay_groups
from raylab.tasks.clip import ClipLearner
from raylab.tasks.dual import HIGHEST_LOGIT_SCALE
from raylab.train.accelerators import open_accelerator
from raylab.train.loop import Loop
from raylab.train.optim import OptimConfig, make_optimizer
from raylab.train.reader import REPLACED

BATCH, WARM = 64, 10
MEAN_STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
OPTIM = OptimConfig(rate=1e-3, warmup_steps=1)


def made_batches(count: int) -> list[Arrays]:
    """Return batches of random pictures and texts."""
    draw = np.random.default_rng(0)
    tokenizer = MINIWORLD_ENCODER.tokenizer()
    texts = [f"signal flag {word} on a pole at the sea" for word in ("lima", "india", "kilo", "golf")]
    token_BL = tokenizer(texts * (BATCH // 4)).numpy()
    return [
        {
            "image_BHWC": draw.integers(0, 256, (BATCH, 64, 64, 3), dtype=np.uint8),
            "token_BL": token_BL,
            REPLACED: np.zeros(BATCH, np.uint8),
        }
        for _ in range(count)
    ]


class Clock:
    """Takes the time of the steps behind the warm-up."""

    def __init__(self, steps: int) -> None:
        self.steps, self.began = steps, 0.0

    def start(self) -> None:
        """The warm-up is over."""
        self.began = time.perf_counter()

    def images_per_s(self) -> float:
        """All steps are done."""
        return (self.steps - WARM) * BATCH / (time.perf_counter() - self.began)


class Loader:
    """Batches as open_clip's loader yields them: normalised pictures in float32, made beforehand."""

    def __init__(self, batches: list[Arrays], clock: Clock) -> None:
        mean, std = (torch.tensor(values)[:, None, None] for values in MEAN_STD)
        pixels = (torch.from_numpy(arrays["image_BHWC"]).permute(0, 3, 1, 2).float() / 255 for arrays in batches)
        self.pairs = [
            (((one - mean) / std).contiguous(), torch.from_numpy(arrays["token_BL"]))
            for one, arrays in zip(pixels, batches)
        ]
        self.clock, self.num_batches, self.num_samples = clock, len(batches), len(batches) * BATCH

    def __iter__(self) -> Iterator[Any]:
        """Yield pairs; the clock starts with the first one behind the warm-up."""
        for done, pair in enumerate(self.pairs):
            if done == WARM:
                self.clock.start()
            yield pair


def ours(batches: list[Arrays]) -> float:
    """Run raylab's loop, which tells how it goes every tenth step."""
    torch.manual_seed(0)
    accelerator = open_accelerator("cpu", 1)
    learner = ClipLearner(MINIWORLD_ENCODER)
    accelerator.place(learner)
    clock = Clock(len(batches))

    def on_point(step: int, point: dict[str, float]) -> bool:
        if step == WARM:
            clock.start()
        return False

    loop = Loop(
        learner=learner,
        module=learner.module,
        optimizers=[make_optimizer(learner.groups(), OPTIM)],
        accelerator=accelerator,
        optim=OPTIM,
        steps=len(batches),
        accumulate=1,
        precision="fp32",
        seed=0,
        log_every=WARM,
        on_point=on_point,
        save_every=10**9,
        on_save=lambda step: None,
        evaluate_every=10**9,
        evaluate=dict,
    )
    loop.run(batches)
    return clock.images_per_s()


def bare(batches: list[Arrays]) -> float:
    """Run the loop that a hand would write."""
    torch.manual_seed(0)
    model = MINIWORLD_ENCODER.build().clip.to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values)[:, None, None] for values in MEAN_STD)
    optimizer = make_optimizer(decay_groups(model), OPTIM)
    loss_of = open_clip.ClipLoss()
    clock = Clock(len(batches))
    for done, arrays in enumerate(batches):
        if done == WARM:
            clock.start()
        image_BCHW = (torch.from_numpy(arrays["image_BHWC"]).permute(0, 3, 1, 2).float() / 255 - mean) / std
        image_BD, text_BD, scale = model(image_BCHW, torch.from_numpy(arrays["token_BL"]))[:3]
        loss_of(image_BD, text_BD, scale).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(0, HIGHEST_LOGIT_SCALE)
    return clock.images_per_s()


def theirs(batches: list[Arrays]) -> float:
    """Run open_clip's `train_one_epoch`."""
    from open_clip_train.train import train_one_epoch

    torch.manual_seed(0)
    model = MINIWORLD_ENCODER.build().clip.to(memory_format=torch.channels_last)
    model.output_dict = True
    clock = Clock(len(batches))
    data = {"train": SimpleNamespace(set_epoch=lambda epoch: None, dataloader=Loader(batches, clock))}
    arguments = SimpleNamespace(
        device="cpu", precision="fp32", distill=False, accum_freq=1, skip_scheduler=True, horovod=False,
        grad_clip_norm=OPTIM.clip_norm, rank=0, log_every_n_steps=WARM, batch_size=BATCH, world_size=1, wandb=False,
        local_rank=0, log_local=False,
    )  # fmt: skip
    optimizer = make_optimizer(decay_groups(model), OPTIM)
    train_one_epoch(model, data, open_clip.ClipLoss(), 0, optimizer, None, None, None, arguments)
    return clock.images_per_s()


def main(steps: int = 60, rounds: int = 5) -> None:
    """Measure in turn and print the JSON."""
    torch.set_num_threads(1)
    batches = made_batches(steps)
    found = []
    for _ in range(rounds):
        one = {"ours": ours(batches), "bare": bare(batches), "open_clip": theirs(batches)}
        found.append(one | {"ratio": one["ours"] / one["bare"], "to_open_clip": one["ours"] / one["open_clip"]})
        print(found[-1], file=sys.stderr)
    result = {
        "ratio": median(one["ratio"] for one in found),
        "asked": 0.95,
        "to_open_clip": median(one["to_open_clip"] for one in found),
        "asked_to_open_clip": 1.0,
        "batch": BATCH,
        "rounds": found,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "open-clip-torch")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
