"""Three hosts, each a Ray node: jobs run while a host dies, is cut off, is called back, or joins late.

Every run must make what a run makes that nobody disturbed.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults.host_cluster import BUCKET, Cluster, cluster, storage
from faults.host_faults import Fault, Run, disturb, fault, shape
from faults.host_jobs import ASKED_ROWS, Annotate, AnnotateByVllm, Job, Label, Train, World, served
from faults.hosts import missing

SEEDS = 20
pytestmark = pytest.mark.timeout(1800)
Record = Callable[[str, object], None]
"""See pytest's `record_property`; `faults.record` reads it."""


class Hosts:
    """The cluster, the jobs, and what they make undisturbed, each when it is first asked for."""

    def __init__(self, on: Cluster, world: World, jobs: dict[str, Job]) -> None:
        self.cluster, self.world, self.jobs = on, world, jobs
        self._expected: dict[str, Any] = {}

    def expected(self, name: str) -> Any:
        """Return what a run makes that nobody disturbs."""
        if name not in self._expected:
            self._expected[name] = self.result(name, "undisturbed", None)
        return self._expected[name]

    def result(self, name: str, run_name: str, what: Fault | None) -> Any:
        """Run a job, let happen what is to happen, and return what it made."""
        self.world.make(self.jobs[name].reads)
        self.cluster.shape(shape(what))
        self.cluster.bucket.write_s = what.write_s if what else 0.0
        log = self.world.folder / f"{run_name}-{name}.log"
        run = Run(self.cluster, self.jobs[name], f"s3://{BUCKET}/{run_name}-{name}", log)
        try:
            if what is None:
                run.start()
                assert run.ended() == 0
            else:
                disturb(run, what)
            run.job.check(run.out, run.said())
            return run.job.result(run.out)
        finally:
            run.close()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Hosts without Ray."""
    if why := missing():
        pytest.skip(f"hosts by namespaces: {why}")
    s3fs = pytest.importorskip("s3fs")
    with cluster() as made, served(made.network.gateway) as (url, oracle), pytest.MonkeyPatch.context() as patch:
        for name, value in storage(made.network).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # a test may have used another server
        jobs = {"label": Label(), "annotate": Annotate(url, oracle), "train": Train(), "vllm": AnnotateByVllm()}
        yield Hosts(made, World(tmp_path_factory.mktemp("hosts")), jobs)
    s3fs.S3FileSystem.clear_instance_cache()


def check(hosts: Hosts, what: Fault, name: str, record: Record) -> None:
    expected = hosts.expected(what.job)
    began = time.monotonic()
    found = hosts.result(what.job, name, what)
    seconds = round(time.monotonic() - began, 1)
    record("run", json.dumps(dataclasses.asdict(what) | {"seconds": seconds, "equal": found == expected}))
    assert found == expected


def test_a_host_that_dies_changes_no_label(hosts: Hosts, record_property: Record) -> None:
    what = Fault("label", "killed", at=0.3, later_s=0.2, host=3, write_s=0.25)
    check(hosts, what, "fast-killed", record_property)


@pytest.mark.slow
def test_a_host_that_joins_late_is_used(hosts: Hosts, record_property: Record) -> None:
    check(hosts, Fault("label", "late", at=0.05, later_s=0.0, host=2), "fast-late", record_property)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_twenty_seeds(hosts: Hosts, seed: int, record_property: Record) -> None:
    check(hosts, fault(seed), f"seed-{seed}", record_property)


@pytest.mark.slow
def test_an_llm_whose_host_dies_is_started_on_another(hosts: Hosts) -> None:
    what = Fault("vllm", "killed", at=1.0, later_s=0.5, host=None)
    assert hosts.result("vllm", "engine", what) == [True] * ASKED_ROWS
