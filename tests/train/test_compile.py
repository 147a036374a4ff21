"""A compiled network makes the steps of one that is not, is compiled once, and leaves the same checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distributed_workers import run_workers
from train.runs import Told, prepared, small
from train.training_store import Store

from raylab.train.export import export
from raylab.train.loop import Curve
from raylab.train.plan import ParallelConfig, TrackConfig, TrainConfig
from raylab.train.worker import Run, read_here, work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def config(recipe: str, store: Store, tower: Path, out: Path, **parallel: object) -> TrainConfig:
    """A run of two passes a step that looks at rows that are held out; towers of one block, as compiling takes long."""
    path = tower / "open_clip_config.json"
    model = json.loads(path.read_text())
    model["model_cfg"]["vision_cfg"]["layers"] = model["model_cfg"]["text_cfg"]["layers"] = 1
    path.write_text(json.dumps(model))
    made = small(recipe, store, out, parallel=ParallelConfig(threads=1, accumulate=2, **parallel))  # type: ignore[arg-type]
    task = replace(made.task, encoder=replace(made.task.encoder, name=str(tower)))  # type: ignore[attr-defined, type-var]
    track = TrackConfig(every=1, evaluate_every=2, project="", samples=3)
    return replace(made, task=task, data=replace(made.data, held_out=0.3), track=track)


def _worker(rank: int, world: int, run: Run) -> tuple[dict[int, Curve], list[int]]:
    """Return the points, and how many graphs had been compiled at each."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()  # what an earlier test compiled in this process
    counters.clear()
    graphs: list[int] = []
    told = Told(lambda step, point: graphs.append(counters["stats"]["unique_graphs"]))
    work(run, read_here, told)
    return told.points, graphs


def train(config: TrainConfig, world: int) -> tuple[dict[int, dict[str, float]], list[int]]:
    run = prepared(config)
    points, graphs = _worker(0, 1, run) if world == 1 else run_workers(_worker, world, run)[0]
    names = ("loss", "held_out/loss")
    return {step: {name: point[name] for name in names if name in point} for step, point in points.items()}, graphs


@pytest.mark.parametrize(
    "run",
    [
        ("mofi_miniworld", 1, "ddp"),
        ("clip_miniworld", 1, "ddp"),
        ("git_miniworld", 1, "ddp"),
        ("mofi_miniworld", 2, "ddp"),
        ("mofi_miniworld", 2, "fsdp"),
    ],
)
def test_a_compiled_run_makes_the_same_steps(
    run: tuple[str, int, str], store: Store, tower: Path, tmp_path: Path
) -> None:
    recipe, world, strategy = run
    plain, none = train(config(recipe, store, tower, tmp_path / "plain", strategy=strategy), world)
    compiled = config(recipe, store, tower, tmp_path / "compiled", strategy=strategy, compile=True)
    found, graphs = train(compiled, world)
    assert set(none) == {0}
    assert graphs[0] > 0
    assert len(set(graphs)) == 1, "something was compiled again after the first step"
    for step, point in plain.items():
        assert found[step] == pytest.approx(point, rel=1e-4)
    # its checkpoints are those of any run: export and a run that is not compiled open them
    export(prepared(compiled))
    longer = replace(compiled, steps=compiled.steps + 1, parallel=replace(compiled.parallel, compile=False))
    after, _ = train(longer, world)
    assert list(after) == [compiled.steps + 1]
