"""One arm of the study of encoders: pretrained in one way, then transferred in three. A process of its own each.

.venv/bin/python bench/effects/encoders.py NAME WORLD TRANSFER KB OUT STEPS SEED
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from arms import train
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import register_model
from torch import nn

from raylab.dense.fit import fit
from raylab.models.dual_encoder import CONFIG_FILE, WEIGHTS_FILE, normalised
from raylab.models.image_encoder import save_encoder
from raylab.recipes.miniworld import MINIWORLD_VIT
from raylab.recipes.train import TRAIN
from raylab.recipes.upernet import upernet_miniworld
from raylab.sources.base import SourceConfig
from raylab.sources.miniworld.entities import PICTURED
from raylab.sources.miniworld.make_clip import SHIPPED
from raylab.tasks.mug import WeightsConfig
from raylab.train.optim import OptimConfig
from raylab.train.plan import CheckpointConfig, TrackConfig, TrainConfig

BATCH, TUNING_BATCH = 64, 32
RATE = 1e-3
"""Of all arms' pretraining."""
TUNING_STEPS, PROBE_STEPS, SEGMENTATION_STEPS = 600, 300, 600
SEGMENTED_ROWS, SEGMENTED_TEST_ROWS = 1_000, 300
TRUNK = "visual.trunk."
TOLD_APART = frozenset(one.id for one in PICTURED[1::2])
"""Entities that encoders are tuned to and probed for; no picture that they were pretrained on shows one."""


def _recipe(name: str) -> Callable[[Path], TrainConfig]:
    def make(folder: Path) -> TrainConfig:
        return TRAIN[f"{name}_miniworld"]()

    return make


def _mug(folder: Path) -> TrainConfig:
    """Return MUG with captions that weigh as much as pixels: at a tenth, few steps do not teach them."""
    config: Any = TRAIN["mug_miniworld"]()
    return replace(config, task=replace(config.task, weights=WeightsConfig(1.0, 1.0)))


def _clip(folder: Path) -> TrainConfig:
    """Return CLIP with the others' encoder as its vision tower and the shipped CLIP's text tower."""
    tower = folder / "architecture"
    shutil.copytree(SHIPPED, tower, dirs_exist_ok=True)
    about = json.loads((tower / CONFIG_FILE).read_text())
    about["model_cfg"]["vision_cfg"] = {
        "timm_model_name": vit_miniworld.__name__,
        "timm_pool": "token",
        "image_size": 64,
    }
    about["preprocess_cfg"] |= {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    (tower / CONFIG_FILE).write_text(json.dumps(about))
    config: Any = TRAIN["clip_miniworld"]()
    return replace(config, task=replace(config.task, encoder=replace(config.task.encoder, name=str(tower))))


@register_model
def vit_miniworld(pretrained: bool = False, **settings: Any) -> nn.Module:
    """Be the others' encoder under a name of timm's, by which open_clip makes towers."""
    return MINIWORLD_VIT.build()


GENERATIVE, DISCRIMINATIVE = ("mug", "mae"), ("clip", "simclr")
ARMS: dict[str, Callable[[Path], TrainConfig]] = {
    "mug": _mug,
    "clip": _clip,
    "mae": _recipe("mae"),
    "simclr": _recipe("simclr"),
}
"""Each has the same encoder, and sees as many pictures of the same world. Besides: ``nothing``, random weights."""


@dataclass(frozen=True)
class Arm:
    """What an arm is run with."""

    name: str
    world: Path
    transfer: Path
    kb: Path
    out: Path
    steps: int
    seed: int


def common(arm: Arm, config: TrainConfig, world: Path, out: Path, *, steps: int, batch: int) -> TrainConfig:
    """Return a run on a world."""
    return replace(
        config,
        source=SourceConfig(uri=str(world / "pairs.parquet")),
        labels=str(world / "selected"),
        kb=str(arm.kb),
        out=str(out),
        steps=steps,
        seed=arm.seed,
        batch=batch,
        checkpoint=CheckpointConfig(every=steps),
        track=TrackConfig(every=50, evaluate_every=steps, project="", samples=0),
    )


def pretrain(arm: Arm) -> Path:
    """Train the encoder; return a folder of it as timm reads it."""
    out = arm.out / "pretrained"
    out.mkdir(parents=True)
    if arm.name == "nothing":
        torch.manual_seed(arm.seed)
        _save(MINIWORLD_VIT.build(), out / "model")
        return out / "model"
    config = common(arm, ARMS[arm.name](out), arm.world, out / "run", steps=arm.steps, batch=BATCH)
    train(replace(config, optim=replace(config.optim, rate=RATE)))
    if arm.name != "clip":
        return out / "run" / "model"
    state = load_file(out / "run" / "model" / WEIGHTS_FILE)
    encoder = MINIWORLD_VIT.build()
    encoder.load_state_dict({name.removeprefix(TRUNK): one for name, one in state.items() if name.startswith(TRUNK)})
    _save(encoder, out / "model")
    return out / "model"


def _save(encoder: nn.Module, folder: Path) -> None:
    save_encoder(encoder, folder, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def classify(arm: Arm, encoder: Path, recipe: str, steps: int, test: Any) -> float:
    """Transfer to the entities of another world; return the share of a third world's pictures that are told right."""
    config: Any = TRAIN[recipe]()
    config = replace(config, task=replace(config.task, encoder=replace(config.task.encoder, weights=str(encoder))))
    out = arm.out / recipe
    train(common(arm, config, arm.transfer, out, steps=steps, batch=TUNING_BATCH))
    names = np.array(json.loads((out / "model" / "config.json").read_text())["label_names"])
    model = timm.create_model(f"local-dir:{out / 'model'}", pretrained=True).eval()
    alone_N = np.isin(test["entity_N"], list(TOLD_APART))
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    with torch.inference_mode():
        said = [
            model(normalised(part_BHWC, mean, std)).argmax(1)
            for part_BHWC in torch.from_numpy(test["image_NHWC"][alone_N]).split(256)
        ]
    return float(np.mean(names[torch.cat(said).numpy()] == test["entity_N"][alone_N]))


def segment(arm: Arm, encoder: Path) -> float:
    """Transfer to masks; return the mean IoU."""
    made = upernet_miniworld()
    config = replace(
        made,
        task=replace(made.task, encoder=replace(made.task.encoder, name=str(encoder), image_size=0)),
        train=f"miniworld://?rows={SEGMENTED_ROWS}&seed={arm.seed + 2_000_000}#classes=parts",
        val=f"miniworld://?rows={SEGMENTED_TEST_ROWS}&seed={arm.seed + 3_000_000}#classes=parts",
        out=str(arm.out / "segmentation"),
        steps=SEGMENTATION_STEPS,
        seed=arm.seed,
        readers=1,
        optim=OptimConfig(rate=2e-3, warmup_steps=20),
        checkpoint=CheckpointConfig(every=SEGMENTATION_STEPS),
        track=TrackConfig(every=50, evaluate_every=SEGMENTATION_STEPS, project=""),
    )
    return fit(config)["scores"]["miou"]


def main(arm: Arm) -> None:
    """Be an arm; print its scores."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    test = dict(np.load(arm.world / "test.npz"))
    encoder = pretrain(arm)
    scores = {
        "fine-tuned top-1": classify(arm, encoder, "finetune_miniworld", TUNING_STEPS, test),
        "linear top-1": classify(arm, encoder, "linear_probe_miniworld", PROBE_STEPS, test),
        "mIoU": segment(arm, encoder),
    }
    print(json.dumps({"arm": arm.name, "seed": arm.seed, "scores": scores}))


if __name__ == "__main__":
    name, world, transfer, kb, out, steps, seed = sys.argv[1:]
    main(Arm(name, Path(world), Path(transfer), Path(kb), Path(out), int(steps), int(seed)))
