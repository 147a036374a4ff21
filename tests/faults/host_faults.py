"""What happens to the hosts while a job runs: a seed says to which job, what, to which host, and when."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from faults.host_cluster import CPUS, WORKERS, Cluster, wait
from faults.host_jobs import Job

JOBS = ("label", "annotate", "train")
CUT_S = 60.0
NOTICE_S = 15
"""What a drained host is told before it goes."""
WRITE_S = 1.5
"""How long a write of pieces or checkpoints takes: a seed's run lasts longer than the notice of a drained host."""
AT_MOST = {"drained": 0.3, "late": 0.2}
"""How far a run is at most when it happens, of kinds that need more of the run than others (0.8) do."""
FINISH_S = 600.0
HEAD_S = 150.0
"""Within which a job ends that has lost its head."""


@dataclass(frozen=True)
class Fault:
    """What happens: to a run that is so far (0 to 1), and so many seconds later, on that host.

    Without a host: on that where the job's work is done. `write_s` is what the bucket's writes take (`bucket`).
    """

    job: str
    kind: str
    at: float
    later_s: float
    host: int | None
    write_s: float = WRITE_S


def fault(seed: int) -> Fault:
    """Return the seed's fault: fifteen seeds in a row are all kinds for all jobs."""
    rng = random.Random(seed)
    kind = list(KINDS)[seed // len(JOBS) % len(KINDS)]
    at = rng.uniform(0.02, AT_MOST.get(kind, 0.8))
    return Fault(JOBS[seed % len(JOBS)], kind, at, rng.uniform(0, 1.5), rng.choice(WORKERS))


@dataclass
class Run:
    """A run of a job on the hosts: `out` is where it writes, `log` takes what it prints."""

    cluster: Cluster
    job: Job
    out: str
    log: Path
    process: psutil.Popen | None = None

    def start(self, *more: str) -> None:
        """Start the job's line."""
        self.process = self.cluster.start([*self.job.line(self.out), *more], self.log)

    def reach(self, share: float) -> bool:
        """Wait until the run is so far; False where it was over before."""
        return wait(lambda: self.job.progress(self.out) >= share, FINISH_S, f"{share:.0%} of the run", self.process)

    def goes_on(self) -> bool:
        """Tell whether the job runs."""
        return self.process is not None and self.process.poll() is None

    def ended(self, seconds: float = FINISH_S) -> int:
        """Wait until the job ends; return its status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def said(self) -> str:
        """Return what the job printed so far."""
        return self.log.read_text()

    def close(self) -> None:
        """Kill the job where it still runs, and print what it said: a test that fails shows it."""
        if self.process is not None and self.goes_on():
            self.process.kill()
            self.process.wait()
        print(self.said())


def killed(run: Run, host: int) -> None:
    """A machine is gone; for a job that needs two another one takes its place."""
    run.cluster.host(host).kill()
    _replace(run, host)


def cut(run: Run, host: int) -> None:
    """A machine is cut off for a minute. Ray gives it up, and it gives itself up when it hears of that.

    What had been in hand there goes on until then; it must do no harm. After that the host joins again.
    """
    lost = run.cluster.host(host)
    lost.cut()
    time.sleep(CUT_S)
    lost.mend()
    wait(lambda: not lost.running("raylet"), 120, "a node that was given up ends itself")
    run.cluster.join(host)


def drained(run: Run, host: int) -> None:
    """A machine is called back, and goes when it was said."""
    over = time.monotonic() + NOTICE_S
    run.cluster.drain(host, NOTICE_S)
    time.sleep(max(0.0, over - time.monotonic()))
    assert run.goes_on(), "the run was over before the host went"
    killed(run, host)


def late(run: Run, host: int) -> None:
    """A machine joins while the job runs, or waits for it, and is used: the run goes on while the others rest."""
    with _resting(run, host):
        joined = run.cluster.join(host)
        assert wait(lambda: joined.running(run.job.owner), FINISH_S, "the host is used", run.process), "it was not used"
    if not run.job.together:
        with _resting(run, host):
            before = run.job.progress(run.out)
            assert wait(lambda: run.job.progress(run.out) > before, FINISH_S, "its work counts", run.process)


@contextlib.contextmanager
def _resting(run: Run, besides: int) -> Iterator[None]:
    """Hold what does the job's work on other hosts."""
    others = [run.cluster.host(number) for number in WORKERS if number != besides]
    held = [process for host in others for process in host.called(run.job.owner)]
    for process in held:
        process.suspend()
    try:
        yield
    finally:
        for process in held:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def headless(run: Run, host: int) -> None:
    """The head is gone: the job ends and says why. The same line on a new cluster does the rest."""
    assert run.process is not None
    run.cluster.lose_head(run.process)
    assert run.ended(HEAD_S) != 0
    assert "start the same line on a new cluster" in run.said()
    for number in WORKERS:  # `ray start` takes them for its own host's, as it sees their processes
        run.cluster.host(number).kill()
    run.cluster.start_head()
    for number in WORKERS:
        run.cluster.join(number)
    run.start()


def _replace(run: Run, host: int) -> None:
    if run.job.together:
        run.cluster.join(host)


KINDS: dict[str, Callable[[Run, int], None]] = {
    "killed": killed,
    "cut": cut,
    "drained": drained,
    "late": late,
    "headless": headless,
}


def shape(what: Fault | None) -> dict[int, int]:
    """Return which hosts are workers when the job starts, and their CPUs."""
    full = dict.fromkeys(WORKERS, CPUS)
    if what is None or what.kind != "late":
        return full
    first = next(number for number in WORKERS if number != what.host)
    return {first: 1 if what.job == "annotate" else CPUS}


def disturb(run: Run, what: Fault) -> None:
    """Start the job, let it happen, wait for the end."""
    run.start(*(run.job.wider if what.kind == "late" else ()))
    if what.kind != "late" or what.job == "label":  # the others may wait for the host
        assert run.reach(what.at), f"the run was over before {what.at:.0%}"
    time.sleep(what.later_s)
    assert run.goes_on(), f"the run was over {what.later_s:.1f} s after {what.at:.0%}"
    KINDS[what.kind](run, what.host or _busy(run))
    assert run.ended() == 0


def _busy(run: Run) -> int:
    return next(number for number in WORKERS if run.cluster.host(number).running(run.job.owner))
