"""How far a cluster can grow: told at the head, seen by jobs, which wait for GPUs of a cluster from zero."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.growing import Head, head
from ray.autoscaler._private.local.config import bootstrap_local
from ray.autoscaler._private.util import prepare_config

from raylab import ceiling

FILES = Path(__file__).parents[2] / "cluster"


def most(file: dict) -> dict[str, float]:
    found: dict[str, float] = {}
    for group in ceiling.described(file).node_group_configs:
        for name, value in group.resources.items():
            found[name] = found.get(name, 0) + group.max_count * value
    return found


def bootstrap(name: str) -> dict:
    return prepare_config(yaml.safe_load((FILES / name).read_text()))


def test_gpus_of_the_file_on_aws() -> None:
    file = bootstrap("gpu.yaml")
    assert most(file)["GPU"] == 8 * 1 + 1 * 8
    groups = {group.name: group for group in ceiling.described(file).node_group_configs}
    assert groups["head"].max_count == 1 and groups["cpu"].max_count == 16


def test_a_slice_counts_with_all_its_hosts_and_rays_name_for_its_kind() -> None:
    file = bootstrap("tpu.yaml")
    for name, pod in (("v6e_8", "v6e-8"), ("v6e_16", "v6e-16"), ("v5e_16", "v5litepod-16")):
        file["available_node_types"][name]["resources"][f"TPU-{pod}-head"] = 1  # as Ray's provider fills it in
    found = most(file)
    assert found["TPU"] == 8 + 16 + 16
    groups = {group.name: group for group in ceiling.described(file).node_group_configs}
    assert [groups[name].max_count for name in ("v6e_8", "v6e_16", "v5e_16")] == [1, 4, 4]
    assert found["accelerator_type:TPU-V6E"] and found["accelerator_type:TPU-V5LITEPOD"]


def test_own_machines_count_and_nobody_knows_what_they_have() -> None:
    file = yaml.safe_load((FILES / "local.yaml").read_text())
    file["provider"]["worker_ips"] = ["10.0.0.2", "10.0.0.3"]
    (group,) = ceiling.described(bootstrap_local(prepare_config(file))).node_group_configs
    assert group.max_count == 3 and not group.resources


ASK = """
import json, ray
from raylab import session
from raylab.errors import RaylabError

def said(call, *arguments):
    try:
        return call(*arguments)
    except RaylabError as error:
        return str(error)

ray.init(logging_level="ERROR")
facts = {name: session.resource(name) for name in ("GPU", "TPU")}
facts |= {"elsewhere": session.works_elsewhere(), "auto": said(session.auto_accelerator)}
facts["too_many"] = said(session._check_resources, 1, 9)
places = {"--kb": "/data/kb"}
facts["local"] = said(session.refuse_local, places, session.nodes(), False, session.works_elsewhere())
print(json.dumps(facts))
"""

WORK = """
import ray
from raylab.session import session

with session(cpus=1, gpus=1, worker_logs=False):
    print("begun with", ray.cluster_resources().get("GPU", 0), "GPUs")
"""


def asked(at: Head) -> dict[str, Any]:
    """What a job sees there; Ray's autoscaler may print lines of its own between."""
    lines = at.python("-c", ASK).splitlines()
    found: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("{")))
    return found


@pytest.fixture(
    scope="module",
    params=[pytest.param(True, id="second"), pytest.param(False, id="first")],
)
def from_zero(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head by each of Ray's two autoscalers, to which nobody has told anything yet."""
    with head(tmp_path_factory.mktemp("head"), second=request.param) as started:
        yield started


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_gpus_that_a_cluster_can_grow_to_are_waited_for(from_zero: Head) -> None:
    unknown = asked(from_zero)
    assert unknown["GPU"] == math.inf, "nobody can tell"
    assert unknown["too_many"] is None, "so it is waited for"
    assert "Say --accelerator cuda, xla or cpu" in unknown["auto"]
    from_zero.report()
    known = asked(from_zero)
    assert (known["GPU"], known["TPU"], known["auto"]) == (8, 0, "cuda")
    assert "need 9 GPUs and this Ray has 8" in known["too_many"]
    assert known["elsewhere"] and "starts more nodes for the work" in known["local"]
    assert "begun with 0 GPUs" in from_zero.python("-c", WORK)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_head_alone_does_not_grow(tmp_path: Path) -> None:
    """As `ray start --head` makes it: Ray runs an autoscaler there too, which can do nothing."""
    with head(tmp_path, second=True, up=False) as started:
        facts = asked(started)
    assert (facts["GPU"], facts["auto"]) == (0, "cpu")
    assert "need 9 GPUs and this Ray has 0" in facts["too_many"]
    assert "starts more nodes" in facts["local"], "it offers no CPU: the work is done elsewhere"
