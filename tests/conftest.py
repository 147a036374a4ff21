"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_clip import tiny_clip  # noqa: F401  (a fixture)

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"
LONGEST = (
    "tune/test_run.py",
    "jobs/test_annotate_job.py",
    "annotate/test_run.py",
    "train/test_run.py",
    "jobs/test_label_job.py",
    "label/test_run.py",
    "faults/test_hosts.py",
    "faults/test_kills.py",
    "train/test_strategies.py",
    "train/test_checkpoint.py",
    "jobs/test_evaluate_job.py",
    "evaluate/test_run.py",
    "jobs/test_bad_input.py",
    "jobs/test_check_job.py",
    "dense/test_search.py",
)
"""Files of half a minute and more, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: one that comes last keeps one of two workers busy while the other has no more."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data, which is not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data (../shared/data) is not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Where `bucket` will listen, for this process and for all that it starts: Ray's workers start early."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
    }
    return port


@pytest.fixture(scope="session")
def s3_server(s3_port: int) -> Iterator[None]:
    """A real S3-compatible server on loopback."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=s3_port, verbose=False)
    server.start()
    yield
    server.stop()


@pytest.fixture
def bucket(s3_server: None, request: pytest.FixtureRequest) -> str:
    """The address of an empty bucket."""
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()  # a test may have used another server
    name = f"bucket-{abs(hash(request.node.nodeid))}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def ray_cluster(s3_port: int) -> Iterator[None]:
    """One Ray for all tests that need it. CPUs are slots: the two cores are shared by the operating system."""
    import ray

    from raylab.session import OWN_RAY

    # Workers import test modules by the names that pytest gives them.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    ray.init(
        address="local",
        num_cpus=6,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config=OWN_RAY,  # as a job's own: otherwise these tests would come after all others on the machine
    )
    yield
    ray.shutdown()
