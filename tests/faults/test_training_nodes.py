"""Nodes of a cluster come, go, and say that they will go while a run trains: it goes on, and makes every step once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from faults.training_nodes import WORKER_CPUS, begun, curve, finish, nodes, saved, shown, starts, wait
from train.conftest import make_tower
from train.runs import small, train
from train.training_store import Store, make_store

from raylab.train.plan import CheckpointConfig, ParallelConfig, TrackConfig, TrainConfig

STEPS = 240
"""Long enough for a node to be noticed: Ray looks for new ones every 20 s, for those that will go every 5 s."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("training"), rows=320)


@pytest.fixture
def config(store: Store, tmp_path: Path) -> TrainConfig:
    """MOFI on a tower without batch statistics."""
    made = small("mofi_miniworld", store, tmp_path / "run", steps=STEPS, batch=64)
    encoder = replace(made.task.encoder, name=str(make_tower(tmp_path)))  # type: ignore[attr-defined]
    return replace(
        made,
        shared_disk=True,
        task=replace(made.task, encoder=encoder),  # type: ignore[type-var]
        checkpoint=CheckpointConfig(every=20),
        track=TrackConfig(every=1, evaluate_every=STEPS, project=""),
        parallel=ParallelConfig(threads=1, cpus=WORKER_CPUS),
    )


def test_a_run_goes_on_with_more_and_with_fewer_workers(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, parallel=replace(config.parallel, most_workers=2))
    with nodes(1) as cluster, begun(config, cluster) as process:
        wait(lambda: saved(config) >= 20, process)
        second = cluster.add()
        wait(lambda: len(starts(config)) == 2, process)
        wait(lambda: saved(config) > starts(config)[1][1], process)
        cluster.kill(second)
        finish(process, config)
    workers, steps = zip(*starts(config))
    assert workers == (1, 2, 1)
    assert 0 == steps[0] < steps[1] < steps[2] < STEPS
    assert all(step % 20 == 0 for step in steps)
    alone = train(replace(config, out=str(tmp_path / "alone")))
    assert curve(config) == pytest.approx({step: point["loss"] for step, point in alone.items()}, rel=1e-2)


def test_a_node_that_will_go_makes_the_run_save_at_once_and_go_on_elsewhere(
    config: TrainConfig, tmp_path: Path
) -> None:
    """A node's end is no failure of the run: it does not count among those that are allowed."""
    config = replace(
        config,
        checkpoint=CheckpointConfig(every=STEPS),
        parallel=replace(config.parallel, max_failures=0),
    )
    with nodes(2) as cluster, begun(config, cluster) as process:
        wait(lambda: shown(config) >= 5, process)
        first = cluster.host()
        cluster.drain(first, 20)
        wait(lambda: saved(config) > 0, process)
        wait(lambda: len(starts(config)) == 2, process)
        assert cluster.host(besides=first) != first
        finish(process, config)
    (_, begin), (_, again) = starts(config)
    assert 0 == begin < again < STEPS
    alone = train(replace(config, out=str(tmp_path / "alone")))
    assert curve(config) == {step: point["loss"] for step, point in alone.items()}
