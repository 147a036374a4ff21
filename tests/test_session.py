from __future__ import annotations

import os
import socket
import time

import pytest
from ray.exceptions import RayActorError

from raylab import session
from raylab.errors import RaylabError
from raylab.session import (
    _check_resources,
    _head_watched,
    auto_accelerator,
    can_grow,
    resource,
    works_elsewhere,
)


def test_gpus_that_are_not_there_are_refused(ray_cluster: None) -> None:
    with pytest.raises(RaylabError, match=r"need 2 GPUs and this Ray has 0: set --pools"):
        _check_resources(1, 2)


def test_cores_that_taskset_or_a_container_takes_away_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    assert 1 <= session.cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert session.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.setattr(session, "get_num_cpus", lambda **_: 0)  # half a core, as Ray cuts it off
    assert session.cores() == 1


def test_a_ray_of_our_own_does_not_grow(ray_cluster: None) -> None:
    """Even where a pod of KubeRay says that it is one of a kind. Clusters that do: tests/cluster/test_ceiling.py."""
    assert not can_grow() and not works_elsewhere()
    assert resource("GPU") == 0 and resource("CPU") == 6
    assert auto_accelerator() == "cpu"


def test_a_head_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(session, "LOOK_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        with _head_watched(address):
            time.sleep(0.5)
            assert "does not answer" not in caplog.text
            head.close()
            deadline = time.monotonic() + 20
            while "does not answer" not in caplog.text:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(0.3)
    assert caplog.text.count(f"the cluster's head, {address}, does not answer") == 1
    assert "start the same line on a new cluster" in caplog.text


def test_work_that_fails_with_the_head_ends_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        with pytest.raises(RayActorError), _head_watched(address):
            raise RayActorError
    with pytest.raises(RaylabError, match=rf"{address}, does not answer\. What was committed"), _head_watched(address):
        raise RayActorError


def test_what_ray_says_is_not_among_what_a_job_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray prints its raylet's errors in the driver's process, by a thread of its own, whatever log_to_driver is."""
    from ray._private.worker import print_to_stdstream

    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session, "_start", lambda cpus, worker_logs: False)
    monkeypatch.setattr(session, "_let_go", lambda aside: aside.submit(int))
    for name in ("refuse_local", "nodes", "works_elsewhere", "_check_resources"):
        monkeypatch.setattr(session, name, lambda *_: None)
    with session.session(1.0):
        print_to_stdstream({"lines": ["WARNING: no room"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    print("{}")
    said = capsys.readouterr()
    assert said.out == "{}\n"
    assert "WARNING: no room" in said.err
