"""Cluster files: what Ray's own checks say of them, and what all of them promise."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "cluster").glob("*.yaml"))
CLOUD = [path for path in FILES if path.name != "local.yaml"]
NODE = "bash ~/raylab/cluster/node.sh"


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


@named(FILES)
def test_rays_own_checks_accept_it(path):
    validate_config(prepare_config(read(path)))


def test_rays_own_checks_refuse_a_key_that_does_not_exist():
    config = copy.deepcopy(read(CLOUD[0])) | {"idle_timeout": 10}
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(config))


@named(FILES)
def test_nodes_are_set_up_and_started_by_the_one_script(path):
    config = prepare_config(read(path))
    for when in ("head_setup_commands", "worker_setup_commands"):
        assert [command.partition(" setup ")[0] for command in config[when]] == [NODE]
    for kind in ("head", "worker"):
        (start,) = config[f"{kind}_start_ray_commands"]
        assert start.removeprefix("RAY_enable_autoscaler_v2=0 ").partition(" --")[0] == f"{NODE} {kind}"


@named(FILES)
def test_it_sends_the_token_and_what_an_installation_reads(path):
    mounts = read(path)["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    pins = "constraints-xla.txt" if path.name == "tpu.yaml" else "constraints.txt"
    needed = {"raylab", "jobs", "cluster/node.sh", "pyproject.toml", "README.md", pins}
    assert mounts == {f"~/raylab/{name}": name for name in needed}
    assert not [name for name in mounts.values() if not (ROOT / name).exists()]


@named(FILES)
def test_the_extras_that_it_installs_exist(path):
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (command,) = read(path)["setup_commands"]
    assert not set(command.rpartition(" ")[2].split(",")) - set(known)


@named(CLOUD)
def test_workers_start_from_none_and_are_spot_machines(path):
    config = prepare_config(read(path))
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}, "a driver's machine does no work of the pools"
    assert any(kind["resources"].get("GPU") or kind["resources"].get("TPU") for kind in types.values())
    assert any(not {"GPU", "TPU"} & set(kind["resources"]) for kind in types.values()), "decoding needs CPU nodes"
    assert sum(kind["max_workers"] for kind in types.values()) <= config["max_workers"]
    for kind in types.values():
        assert kind["min_workers"] == 0 < kind["max_workers"]
        assert "spot" in str(kind["node_config"]).lower()


@named(CLOUD)
def test_places_to_change_are_marked_and_few(path):
    marked = [line for line in path.read_text().splitlines() if "# <-" in line]
    assert 1 <= len(marked) <= 5
    zone = read(path)["provider"].get("availability_zone")
    for line in path.read_text().splitlines():
        if "my-project" in line or (zone and zone in line):
            assert "# <-" in line


def test_the_project_and_zone_of_a_file_agree_everywhere():
    for path in CLOUD:
        provider = read(path)["provider"]
        if provider["type"] == "gcp":
            assert set(re.findall(r"@([\w-]+)\.iam", path.read_text())) == {provider["project_id"]}
            assert set(re.findall(r"zones/([\w-]+)/", path.read_text())) == {provider["availability_zone"]}
