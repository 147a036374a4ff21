"""DeViSE's claims in miniature: names that mean something against a softmax and against names that mean nothing.

    .venv/bin/python bench/effects/naming.py [seeds] [rows] [steps] [--out DIR]     # 3, 2,000 pairs, 900 steps of 64

Cut off, the same line with --out goes on with the seeds that are not done (seconds are the last part's).

For each seed a world is painted and labelled by CLIP's selection. A softmax makes the encoder; it then learns on, or is
mapped among word vectors (of the knowledge base's texts) or random ones: the map alone for a third as many steps, then
both for as many again, since the rank loss learns from one false name a picture at a time. All see as many pictures.
The entities that the mini-world sets apart are left out of training. Pictures of another world are ranked.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import worlds
from arms import train
from kept import arguments, kept, study
from PIL import Image
from tables import Scores, summary, table

from raylab.evaluate.embedding import BOTH, SEEN, UNSEEN, Embedding
from raylab.evaluate.features import Features
from raylab.evaluate.hierarchy import MINIWORLD, IsA, open_edges
from raylab.evaluate.image_set import ImageSet
from raylab.evaluate.models import ModelConfig, open_model
from raylab.kb.words_build import WordsConfig, build_words
from raylab.recipes.devise import RANDOM_64
from raylab.recipes.train import TRAIN
from raylab.sources.base import SourceConfig
from raylab.sources.miniworld.entities import BY_ID
from raylab.train.plan import CheckpointConfig, TrackConfig, TrainConfig

FIRST_SEED = 511
"""Rates were chosen on world 77."""
TEST_ROWS, BATCH = 2_000, 64
WORDS = WordsConfig(dim=64, passes=100, least=1, threads=1)
"""A small knowledge base takes many passes; one thread, so that the same texts give the same vectors."""


def run(recipe: str, world: worlds.World, kb: Path, name: str, steps: int, **changes: Any) -> Path:
    """Train in this process; return the run's folder."""
    out = world.folder / "runs" / name
    config: Any = TRAIN[f"{recipe}_miniworld"]()
    init = str(changes.pop("init", ""))
    made: TrainConfig = replace(
        config,
        task=replace(config.task, **changes),
        source=SourceConfig(uri=str(world.pairs)),
        labels=str(world.store("selected")),
        kb=str(kb),
        out=str(out),
        init=init,
        steps=steps,
        batch=BATCH,
        seed=world.seed,
        checkpoint=CheckpointConfig(every=steps),
        track=TrackConfig(every=50, evaluate_every=steps, project="", samples=0),
    )
    if recipe == "devise_softmax" and init:
        made = replace(made, optim=replace(made.optim, rate=config.optim.rate / 2))
    train(made)
    return out


def arms(world: worlds.World, kb: Path, words: Path, steps: int) -> dict[str, Path]:
    """Train all arms of a seed; return their runs' folders."""
    first = run("devise_softmax", world, kb, "encoder", steps)
    encoder = replace(TRAIN["devise_miniworld"]().task.encoder, weights=str(first))  # type: ignore[attr-defined]
    alone = steps // 3
    found = {"softmax": run("devise_softmax", world, kb, "softmax", alone + steps, init=first)}
    for name, address in (("devise", str(words)), ("random", RANDOM_64)):
        mapped = run("devise", world, kb, f"{name}_mapped", alone, encoder=encoder, words=address)
        found[f"{name}, map alone"] = mapped
        found[name] = run("devise_tuned", world, kb, name, steps, words=address, init=mapped)
    return found


class Given:
    """A `base.Subject` whose pictures are in memory."""

    generative = False

    def __init__(self, model: Path, image_NHWC: np.ndarray) -> None:
        self.embedder = open_model(ModelConfig(str(model), threads=1)).embedder
        assert self.embedder is not None
        pictures = [Image.fromarray(one) for one in image_NHWC]
        self._features = Features(self.embedder.encode_images(pictures), [None] * len(pictures))

    def features(self, images: ImageSet) -> Features:
        """Return all vectors."""
        return self._features


def score(model: Path, world: worlds.World) -> dict[str, float]:
    """Rank the names of the test pictures of one entity."""
    test = np.load(world.test)
    alone_N = test["entity_N"] != ""
    labels = test["entity_N"][alone_N].tolist()
    titles = {label: (BY_ID[label].title,) for label in labels}
    nowhere: Any = None
    images = ImageSet("test", nowhere, [{}] * len(labels), labels, titles)
    subject: Any = Given(model, test["image_NHWC"][alone_N])
    graph: Callable[..., IsA] = lambda labels: IsA(open_edges(MINIWORLD))  # noqa: E731
    outcome = Embedding(images, graph)(subject)
    return {f"{one.protocol} {one.metric}": one.value for one in outcome.scores}


def gains(scores: Scores) -> dict[str, float]:
    """Return each claim's difference, in points."""
    named, softmax, random = scores["devise"], scores["softmax"], scores["random"]
    found = {"devise over softmax: seen hit@1": named[f"{SEEN} hit@1"] - softmax[f"{SEEN} hit@1"]}
    for k in (5, 10, 20):
        found[f"devise over softmax: seen hp@{k}"] = named[f"{SEEN} hp@{k}"] - softmax[f"{SEEN} hp@{k}"]
    for k in (1, 5, 10):
        found[f"devise over random: unseen hit@{k}"] = named[f"{UNSEEN} hit@{k}"] - random[f"{UNSEEN} hit@{k}"]
    found["devise over random: unseen+seen hit@5"] = named[f"{BOTH} hit@5"] - random[f"{BOTH} hit@5"]
    found["devise over softmax: unseen+seen hp@5"] = named[f"{BOTH} hp@5"] - softmax[f"{BOTH} hp@5"]
    return {claim: 100 * value for claim, value in found.items()}


def _reported(claim: str) -> None:
    """No claim has a number of points."""


def of_seed(folder: Path, kb: Path, words: Path, *, seed: int, rows: int, steps: int) -> dict[str, Any]:
    """Return a seed's scores of all arms."""
    world = worlds.select(folder, kb, seed, rows, TEST_ROWS)
    print(f"seed {seed}: data made", file=sys.stderr, flush=True)
    scores = {arm: score(out, world) for arm, out in arms(world, kb, words, steps).items()}
    print(json.dumps(scores), file=sys.stderr, flush=True)
    return {"seed": seed, "scores": scores}


def texts(folder: Path) -> dict[str, Any]:
    """Build the mini-world's knowledge base and the vectors of its words."""
    worlds.build_kb(folder / "kb")
    return build_words(replace(WORDS, kb=str(folder / "kb"), out=str(folder / "words")))


def main(numbers: list[int], out: Path | None) -> None:
    """Run all arms of all seeds; print the table and the JSON."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seeds, rows, steps, first_seed = numbers
    started, rounds = time.perf_counter(), []
    with study(out) as folder:
        base = folder / "texts"
        about = kept(base, lambda: texts(base))
        for seed in range(first_seed, first_seed + seeds):
            one = partial(of_seed, folder / str(seed), base / "kb", base / "words", seed=seed, rows=rows, steps=steps)
            rounds.append(kept(folder / str(seed), one))
    found = [one["scores"] for one in rounds]
    print(table(found, gains, _reported))
    result = {
        **summary(found, gains, _reported),
        "words": about,
        "rows": rows,
        "steps": steps,
        "rounds": rounds,
        "seconds": round(time.perf_counter() - started),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("ray", "torch", "timm", "gensim")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*arguments(sys.argv[1:], 3, 2_000, 900, FIRST_SEED))
