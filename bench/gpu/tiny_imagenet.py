"""CLIP against MOFI on real pictures: Tiny ImageNet, two shards to train, one to score; retrieval mAP and zero-shot.

    python bench/gpu/tiny_imagenet.py path/to/data [--steps 4000] [--seeds 3] [--jobs 6]        # JSON lines
    .venv/bin/python bench/gpu/tiny_imagenet.py path/to/data --steps 1000 --small               # on a CPU

`data` holds tiny_imagenet_200 (Parquet of 64-pixel pictures with label, name and QID) and wikidata_catalog. Captions
are the classes' names, labels their QIDs: both arms are told the same, what differs is the objective. Same architecture
(open_clip's ResNet with 64 input pixels and the mini-world's text tower and tokenizer), random weights, same pictures
in the same order for both; needs no Ray. Runs share the device, ``--jobs`` at a time: images/s are then each one's
part. The machine needs open-clip-torch, tyro and pyarrow beside torch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from raylab.assets import locate
from raylab.evaluate.plan import EvaluateConfig
from raylab.evaluate.run import run as evaluate
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.models.dual_encoder import CONFIG_FILE, DualEncoderConfig
from raylab.models.mae import VitConfig
from raylab.recipes.train import MINIWORLD_ENCODER, TRAIN
from raylab.schema import LABEL, REJECT, row_id
from raylab.sources.base import SourceConfig
from raylab.storage import Folder
from raylab.tasks.base import TaskContext
from raylab.train.examples import part_names, survey_part, write_survey
from raylab.train.export import export
from raylab.train.loop import Curve, images_per_second
from raylab.train.plan import CheckpointConfig, DataConfig, ParallelConfig, TrackConfig, TrainConfig
from raylab.train.worker import Run, read_here, work

TRAIN_SHARDS, TEST_SHARD = ("train-00.parquet", "train-01.parquet"), "train-02.parquet"
ARMS = ("clip", "mofi")


class Quiet:
    """A `worker.Told` that keeps the last point."""

    last: Curve

    def say(self, line: str) -> None:
        """No matter."""

    def point(self, step: int, point: Curve) -> bool:
        """Keep it."""
        self.last = point
        print(step, {name: round(value, 3) for name, value in point.items() if "rate" not in name}, file=sys.stderr)
        return False

    def saved(self, step: int) -> None:
        """No matter."""

    def samples(self, pictures: list) -> None:
        """Look away."""


def make_store(data: Path, folder: Path, described: bool = False) -> tuple[str, str]:
    """Write a knowledge base of ImageNet's classes and a label store of the training shards; return both folders.

    Captions are the classes' names, followed by the catalogue's descriptions where they are asked for.
    """
    kb, store = folder / "kb", folder / "labels"
    catalogue = str(data / "wikidata_catalog/imagenet1000_qid.jsonl")
    build(BuildConfig(str(kb), (catalogue,), workers=1, context=False))
    catalog = Catalog.open(str(kb))
    names = []
    told_of = _descriptions(catalogue) if described else {}
    for number, shard in enumerate(TRAIN_SHARDS):
        path = data / "tiny_imagenet_200" / shard
        rows = pq.read_table(path, columns=["id", "name", "qid"])
        found = catalog.rows(rows["qid"].combine_chunks())
        titles = catalog.take(found, ("title",))["title"].to_pylist()
        labels = [_label(str(path), at, row, title) for at, (row, title) in enumerate(zip(rows.to_pylist(), titles))]
        for label in labels:
            label["caption"] += told_of.get(label["entity_id"], "")
        for kind, schema, told in (("labels", LABEL, labels), ("rejects", REJECT, [])):
            name = store / kind / f"{number:05d}.parquet"
            name.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(told, schema), name)
        names.append(f"{number:05d}.parquet")
    manifest = {kind: [f"{kind}/{name}" for name in names] for kind in ("labels", "rejects")}
    (store / "MANIFEST.json").write_text(json.dumps(manifest))
    (store / "run.json").write_text(json.dumps({"kb": catalog.info.fingerprint}))
    return str(kb), str(store)


def _descriptions(catalogue: str) -> dict[str, str]:
    lines = [json.loads(line) for line in Path(catalogue).read_text(encoding="utf-8").splitlines()]
    return {one["qid"]: f": {one['description']}" for one in lines if one.get("description")}


def _label(path: str, at: int, row: dict[str, Any], title: str) -> dict[str, Any]:
    shard = Path(path).name
    return {
        "row_id": row_id(shard, row["id"]),
        "shard": shard,
        "key": row["id"],
        "image": {"uri": path, "offset": at, "size": -1},
        "caption": row["name"],
        "entity_id": row["qid"],
        "entity_name": title,
        "score": 1.0,
    }


def make_encoder(folder: Path, small: bool) -> DualEncoderConfig:
    """Return the mini-world's architecture, or one with a ResNet-50 of 64 pixels in place of its tower."""
    if small:
        return MINIWORLD_ENCODER
    source = Path(locate(MINIWORLD_ENCODER.name))
    folder.mkdir(exist_ok=True)
    for path in source.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / CONFIG_FILE).read_text())
    config["model_cfg"]["embed_dim"] = 512
    config["model_cfg"]["vision_cfg"] |= {"layers": [3, 4, 6, 3], "width": 64}
    config["model_cfg"]["text_cfg"] |= {"width": 256, "heads": 4, "layers": 4}
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    return DualEncoderConfig(name=str(folder), from_scratch=True)


def config_of(arm: str, encoder: DualEncoderConfig | VitConfig, options: argparse.Namespace) -> TrainConfig:
    """Return an arm's run; the caller adds folders and seed."""
    config: Any = TRAIN[f"{arm}_miniworld"]()
    optim = replace(config.optim, rate=options.rate, warmup_steps=options.steps // 20)
    return replace(
        config,
        task=replace(config.task, encoder=encoder, crop="inception"),
        accelerator=options.device,
        steps=options.steps,
        batch=options.batch,
        optim=optim,
        data=DataConfig(rows="labelled", window_rows=20_000, task_rows=1024),
        parallel=ParallelConfig(precision="bf16" if options.device == "cuda" else "fp32"),
        checkpoint=CheckpointConfig(every=options.steps),
        track=TrackConfig(every=100, evaluate_every=options.steps, project="", samples=0),
    )


def train(config: TrainConfig) -> Curve:
    """Train in this process; return the last point."""
    labels, share = Folder(config.labels), config.data.held_out
    collator = config.task.collator(TaskContext(config.kb, config.out, 0, config.seed))
    found = [survey_part(labels, part, collator, share) for part in part_names(labels, config.data.rows)]
    run = Run(config, write_survey(Folder(config.out), Catalog.open(config.kb), found))
    told = Quiet()
    work(run, read_here, told)
    export(run)
    return told.last


def score(model: str, out: str, data: Path, device: str) -> dict[str, float]:
    """Score on the shard that was kept: leave-one-out retrieval, zero-shot with CIFAR-100's prompts."""
    address = f"{data}/tiny_imagenet_200/{TEST_SHARD}#label=qid,title=name"
    config = EvaluateConfig(
        recipe="standard",
        model=model,
        device=device,
        suite="retrieval,zero_shot",
        data=address,
        out=out,
        plots=False,
    )
    found = evaluate(config)["scores"]
    return {f"{one['protocol']} {one['metric']}": one["value"] for one in found if one["part"] == "all"}


@dataclass(frozen=True)
class Trial:
    """One run: trained and scored in a process of its own."""

    arm: str
    seed: int
    config: TrainConfig
    score: Callable[[str, str], dict[str, float]]
    """From the model's folder, and one for its report, to its scores."""

    def run(self) -> dict[str, Any]:
        """Return the run's line."""
        torch.set_num_threads(2)
        started = time.perf_counter()
        point = train(self.config)
        seconds = time.perf_counter() - started
        return {
            "arm": self.arm,
            "seed": self.seed,
            "seconds": seconds,
            "images_per_s": images_per_second(point, self.config.batch),
            "losses": {name: value for name, value in point.items() if name.startswith("loss")},
            "scores": self.score(f"{self.config.out}/model", f"{self.config.out}/scores"),
        }


def run_all(trials: Sequence[Trial], jobs: int) -> list[dict[str, Any]]:
    """Run the trials, so many at a time; print each one's line when it is there."""
    lines = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(trial.run) for trial in trials]):
            lines.append(done.result())
            print(json.dumps(lines[-1]), flush=True)
    return lines


def summary(lines: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """Return each arm's means and deviations over its seeds, and what they were got with."""

    def told(of: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
        arms = dict.fromkeys(sorted(line["arm"] for line in lines))
        return {
            arm: {
                metric: of([line["scores"][metric] for line in lines if line["arm"] == arm])
                for metric in lines[0]["scores"]
            }
            for arm in arms
        }

    machine = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    asked = {name: value for name, value in vars(options).items() if name not in ("data", "out")}
    means, spread = told(statistics.mean), told(lambda values: statistics.stdev(values) if len(values) > 1 else 0.0)
    return json.dumps({"means": means, "spread": spread, "options": asked, "machine": machine,
                       "torch": torch.__version__})  # fmt: skip


def options_of(description: str | None) -> argparse.ArgumentParser:
    """Return the command line that such scripts share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--small", action="store_true", help="the mini-world's small networks")
    parser.add_argument("--out", type=Path, help="keep the models there, as <arm><seed>/model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def main(options: argparse.Namespace) -> None:
    """Train and score all arms of all seeds; print a line each, then the means."""
    with tempfile.TemporaryDirectory() as name:
        folder = options.out or Path(name)
        folder.mkdir(exist_ok=True)
        kb, store = make_store(options.data, folder)
        encoder = make_encoder(folder / "encoder", options.small)
        source = SourceConfig(uri=str(options.data / "tiny_imagenet_200" / "train-0[01].parquet"))
        scored = partial(score, data=options.data, device=options.device)
        trials = []
        for seed, arm in itertools.product(range(options.seeds), ARMS):
            config = config_of(arm, encoder, options)
            place = {"labels": store, "kb": kb, "out": str(folder / f"{arm}{seed}"), "seed": seed}
            trials.append(Trial(arm, seed, replace(config, source=source, **place), scored))
        print(summary(run_all(trials, options.jobs), options))


if __name__ == "__main__":
    main(options_of(__doc__).parse_args())
