"""SIGKILL of driver, engine and its actor: each row is annotated once, and no kept answer is asked for again."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import time

import psutil
import pytest
from annotate.rew_world import Oracle, make_labels, serve
from faults import annotation_kills, kills

POINTS = 10
ROWS = 240


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    return kills.build_kb(tmp_path_factory.mktemp("kb"))


@pytest.fixture(scope="module")
def labels(tmp_path_factory, kb):
    """A label store of the mini-world."""
    out = str(tmp_path_factory.mktemp("labels") / "labels")
    source = f"miniworld://?rows={ROWS}&seed=12"
    line = [sys.executable, "jobs/label.py", "--recipe", "miniworld", "--source", source, "--kb", kb, "--out", out]
    subprocess.run(line, cwd=kills.ROOT, check=True, capture_output=True, timeout=150)
    return out


def kill_at(process: psutil.Popen, out: str, target: str, least: int, rng: random.Random) -> bool:
    victim = annotation_kills.TARGETS[target]
    return kills.kill_at(process, victim, lambda: annotation_kills.answers(out) >= least, rng)


def disturbed(line: list[str], out: str, target: str, least: int, rng: random.Random) -> bool:
    """Run the job, kill what is to be killed when there are so many answers, start it again if it has to be."""
    process = kills.start(line, out)
    try:
        hit = kill_at(process, out, target, least, rng)
        if hit and target == "driver":
            process = kills.start(line, out)
        kills.finish(process, out, 600)
    finally:
        kills.end(process)
    return hit


def check(labels: str, out: str) -> None:
    """The result holds every row once, annotated if it was to be, and nothing lies about."""
    expected = annotation_kills.to_annotate(labels)
    found = annotation_kills.annotated(out)
    assert set(found) == expected
    assert set(found.values()) == {1}
    assert annotation_kills.all_rows(out) == annotation_kills.all_rows(labels)
    assert kills.leftovers(out) == []


@pytest.mark.slow
@pytest.mark.timeout(300)  # a driver's death takes Ray a while to notice
def test_a_killed_sender_and_a_killed_driver_ask_for_no_answer_again(kb, tmp_path):
    rows, at_death, rng = 120, [], random.Random(1)
    labels, out = make_labels(tmp_path, kb, ["yes"] * rows), str(tmp_path / "out")
    oracle = Oracle()
    with serve(lambda body: dataclasses.replace(oracle(body), after_s=0.2)) as server:
        line = annotation_kills.job(labels, kb, out, "--annotator.model", server.url, "--annotator.concurrency", "8")
        process = kills.start(line, out)
        try:
            for target, least in (("actor", 60), ("driver", 150)):
                assert kill_at(process, out, target, least, rng), target
                time.sleep(1)  # what was on its way to the server arrives
                at_death += [(key, oracle.asked["verify", key]) for key in annotation_kills.verified(out)]
            asked, answers = oracle.asked.total(), annotation_kills.answers(out)
            process = kills.start(line, out)
            kills.finish(process, out)
        finally:
            kills.end(process)
    check(labels, out)
    assert at_death
    assert all(oracle.asked["verify", key] == before for key, before in at_death)
    assert oracle.asked.total() - asked == 2 * rows - answers


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(200, 200 + POINTS))
def test_ten_points_under_vllm(labels, kb, tmp_path, seed):
    rng = random.Random(seed)
    target = list(annotation_kills.TARGETS)[seed % 3]
    least = rng.randint(0, 2 * len(annotation_kills.to_annotate(labels)) * 3 // 4)
    out = str(tmp_path / "run")
    assert disturbed(annotation_kills.job(labels, kb, out), out, target, least, rng), f"{target} at {least} answers"
    check(labels, out)
