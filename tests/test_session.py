from __future__ import annotations

import logging

import pytest
from ray._private.state import state

from raylab.errors import RaylabError
from raylab.session import _check_resources, resource


def test_gpus_that_are_not_there_are_refused(ray_cluster: None) -> None:
    with pytest.raises(RaylabError, match=r"need 2 GPUs and this Ray has 0: set --pools"):
        _check_resources(1, 2)


def test_a_cluster_that_can_grow_is_waited_for(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: {"GPU": 8, "CPU": 1})
    assert resource("GPU") == 8 and resource("TPU") == 0
    assert resource("CPU") > 1, "what is there counts, whatever the file of the cluster says"
    with caplog.at_level(logging.WARNING):
        _check_resources(1, 2)
    assert "needs 2 GPUs, the cluster has 0 now" in caplog.text
    with pytest.raises(RaylabError, match="need 9 GPUs and this Ray has 8"):
        _check_resources(1, 9)
