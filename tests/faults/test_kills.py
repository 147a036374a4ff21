"""SIGKILL at seeded points: the result is that of a run that nobody disturbed."""

from __future__ import annotations

import random

import pytest
from faults import kills

POINTS = 20
pytestmark = pytest.mark.timeout(400)  # three runs of the job, and a driver's death takes Ray a while to notice


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The knowledge base, and the verdicts of a run from start to end."""
    folder = tmp_path_factory.mktemp("faults")
    kb, out = kills.build_kb(folder), str(folder / "whole")
    kills.finish(kills.start(kills.job(kb, out), out), out)
    return kb, kills.verdicts(out)


def disturbed(kb: str, out: str, seed: int) -> tuple[str, float, bool]:
    """Run the job, kill what the seed says when it says, start it again until it ends."""
    rng = random.Random(seed)
    target, share = list(kills.TARGETS)[seed % len(kills.TARGETS)], rng.uniform(0.0, 0.9)
    process = kills.start(kills.job(kb, out), out)
    try:
        hit = kills.kill_at(process, kills.TARGETS[target], lambda: kills.progress(out) >= share, rng)
        if hit and target == "driver":
            process = kills.start(kills.job(kb, out), out)
        kills.finish(process, out)
    finally:
        kills.end(process)
    return target, share, hit


def check(undisturbed, tmp_path, seed: int) -> None:
    kb, expected = undisturbed
    out = str(tmp_path / "run")
    target, share, hit = disturbed(kb, out, seed)
    assert hit, f"{target} was not killed at {share:.2f}: the run was over"
    assert kills.verdicts(out) == expected, f"{target} killed at {share:.2f}"
    assert len({row for row, _ in expected}) == len(expected) == kills.ROWS
    assert kills.leftovers(out) == []


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_driver_and_a_killed_actor_change_nothing(undisturbed, tmp_path, seed):
    check(undisturbed, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 100 + POINTS))
def test_twenty_points(undisturbed, tmp_path, seed):
    check(undisturbed, tmp_path, seed)
