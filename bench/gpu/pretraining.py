"""MUG, MAE and CLIP pretrained on real pictures, then probed: Tiny ImageNet, two shards to train, the third to probe.

    python bench/gpu/pretraining.py path/to/data [--steps 4000] [--seeds 3] [--jobs 9]      # JSON lines
    .venv/bin/python bench/gpu/pretraining.py path/to/data --steps 20 --seeds 1 --small     # on a CPU

Captions are names and descriptions of the classes. All arms have the same vision transformer (64 pixels in patches of
8, as wide and deep as ViT-S; CLIP's is open_clip's own), crops, batch, rate, pictures and number of steps. The probe is
logistic regression on the encoder's frozen vector: fitted on one half of the third shard, scored on the other. See
tiny_imagenet.py for data and machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2]))

from tiny_imagenet import TEST_SHARD, Trial, config_of, make_store, options_of, run_all, summary

from raylab.assets import locate
from raylab.evaluate.plan import EvaluateConfig
from raylab.evaluate.probe import ProbeConfig
from raylab.evaluate.run import run as evaluate
from raylab.models.captioner import CaptionShape
from raylab.models.dual_encoder import CONFIG_FILE, DualEncoderConfig
from raylab.models.mae import PixelShape, VitConfig
from raylab.recipes.train import MINIWORLD_ENCODER
from raylab.sources.base import SourceConfig
from raylab.train.plan import TrainConfig

ARMS = ("mug", "mae", "clip")
SIDE, PATCH, WIDTH, LAYERS, HEADS = 64, 8, 384, 12, 6
STRENGTHS = (1.0, 100.0)


def make_clip(folder: Path, small: bool) -> DualEncoderConfig:
    """Return open_clip's model with a vision transformer of our shape, with the mini-world's tokenizer."""
    source = Path(locate(MINIWORLD_ENCODER.name))
    folder.mkdir(exist_ok=True)
    for path in source.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / CONFIG_FILE).read_text())
    layers, width = (2, 96) if small else (LAYERS, WIDTH)
    tower = {"image_size": SIDE, "patch_size": PATCH, "layers": layers, "width": width, "head_width": width // HEADS}
    config["model_cfg"] |= {"embed_dim": width, "vision_cfg": tower}
    config["model_cfg"]["text_cfg"] |= {"width": width // 2, "heads": 4, "layers": 4}
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    return DualEncoderConfig(name=str(folder), from_scratch=True)


def config_for(arm: str, clip: DualEncoderConfig, options: argparse.Namespace) -> TrainConfig:
    """Return an arm's run; the caller adds folders and seed."""
    layers, width = (2, 96) if options.small else (LAYERS, WIDTH)
    vit = VitConfig("vit_small_patch16_224", SIDE, PATCH, width, layers, HEADS)
    config: Any = config_of(arm, clip if arm == "clip" else vit, options)
    task = replace(config.task, crop="mae")
    if arm != "clip":
        pixels = PixelShape(width=width // 2, layers=max(1, layers // 3), heads=HEADS)
        text = CaptionShape(width=width // 2, layers=max(1, layers // 3), heads=HEADS, length=32)
        task = replace(task, pixels=pixels, text=text)
    return replace(config, task=task, data=replace(config.data, rows="all"))


def split(data: Path, folder: Path) -> tuple[str, str]:
    """Write the two halves of the third shard, every other row; return their addresses."""
    rows = pq.read_table(data / "tiny_imagenet_200" / TEST_SHARD)
    halves = []
    for name, start in (("fit", 0), ("score", 1)):
        pq.write_table(rows.take(list(range(start, len(rows), 2))), folder / f"{name}.parquet")
        halves.append(f"{folder / name}.parquet#label=qid,title=name")
    return halves[0], halves[1]


def probe(model: str, out: str, halves: tuple[str, str], device: str) -> dict[str, float]:
    """Return the probe's accuracy."""
    config = EvaluateConfig(
        recipe="standard",
        model=model,
        device=device,
        suite="probe",
        data=halves[1],
        probe=ProbeConfig(train=halves[0], strengths=STRENGTHS, max_iterations=300),
        out=out,
        plots=False,
    )
    found = evaluate(config)["scores"]
    return {f"{one['protocol']} {one['metric']}": one["value"] for one in found if one["part"] == "all"}


def main(options: argparse.Namespace) -> None:
    """Pretrain and probe all arms of all seeds; print a line each, then the means."""
    with tempfile.TemporaryDirectory() as name:
        folder = options.out or Path(name)
        folder.mkdir(exist_ok=True)
        kb, store = make_store(options.data, folder, described=True)
        clip = make_clip(folder / "clip", options.small)
        source = SourceConfig(uri=str(options.data / "tiny_imagenet_200" / "train-0[01].parquet"))
        scored = partial(probe, halves=split(options.data, folder), device=options.device)
        trials = []
        for seed, arm in itertools.product(range(options.seeds), ARMS):
            place = {"labels": store, "kb": kb, "out": str(folder / f"{arm}{seed}"), "seed": seed}
            trials.append(Trial(arm, seed, replace(config_for(arm, clip, options), source=source, **place), scored))
        print(summary(run_all(trials, options.jobs), options))


if __name__ == "__main__":
    main(options_of(__doc__).parse_args())
