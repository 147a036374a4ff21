from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILES = sorted((Path(__file__).parents[2] / "cluster").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_rays_own_checks_accept_it(path):
    validate_config(prepare_config(yaml.safe_load(path.read_text())))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_asks_for_the_token_and_keeps_the_dashboard_on_loopback(path):
    starts = [line for line in path.read_text().splitlines() if "ray start" in line]
    assert starts
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert all("--dashboard-host=127.0.0.1" in line for line in starts if "--head" in line)
