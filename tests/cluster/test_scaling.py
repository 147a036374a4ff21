"""From no worker at all: what Ray's autoscalers start for what a job's pools ask for. The decisions are theirs."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml
from cluster.test_kuberay import autoscaling_config
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler as FirstScheduler
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2.scheduler import NodeTypeConfig, ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import Bundle, PlacementStrategy
from ray.core.generated.gcs_pb2 import PlacementGroupTableData

CLUSTER = Path(__file__).parents[2] / "cluster"


def read(name: str) -> dict:
    if name.startswith("kuberay/"):
        return autoscaling_config(CLUSTER / name)
    config = prepare_config(yaml.safe_load((CLUSTER / name).read_text()))
    if name == "tpu.yaml":
        pytest.importorskip("googleapiclient", reason="google-api-python-client (extra gcp) is not installed")
        from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

        return GCPNodeProvider.fillout_available_node_types_resources(config)
    return config


def second_autoscaler(config: dict, demand: list[dict[str, float]]) -> dict[str, int]:
    """What the autoscaler of `ray up` and KubeRay starts."""
    kinds = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=kind.get("min_workers", 0),
            max_worker_nodes=kind.get("max_workers", 0),
            resources=kind["resources"],
        )
        for name, kind in config["available_node_types"].items()
    }
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=kinds,
        max_num_nodes=config["max_workers"] + 1,
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(one) for one in demand]),
    )
    reply = ResourceDemandScheduler(MagicMock()).schedule(request)
    assert not reply.infeasible_resource_requests
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def first_autoscaler(config: dict, bundle: dict[str, float]) -> dict[str, int]:
    """What the autoscaler of the TPU files starts for a placement group of one bundle, with the head alone up."""
    provider = MagicMock()
    tags = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_USER_NODE_TYPE: config["head_node_type"]}
    provider.node_tags.return_value = tags
    provider.non_terminated_nodes.return_value = ["head"]
    provider.internal_ip.return_value = "10.0.0.1"
    group = PlacementGroupTableData(
        bundles=[Bundle(unit_resources=bundle)], strategy=PlacementStrategy.PACK, state=PlacementGroupTableData.PENDING
    )
    kinds = config["available_node_types"]
    scheduler = FirstScheduler(provider, kinds, config["max_workers"], config["head_node_type"], upscaling_speed=1)
    launched, infeasible = scheduler.get_nodes_to_launch(
        ["head"], {}, [], {"10.0.0.1": {}}, [group], {"10.0.0.1": {}}, [], NodeAvailabilitySummary({})
    )
    assert not infeasible
    return dict(launched)


@pytest.mark.parametrize("name", ["gpu.yaml", "gpu-gcp.yaml", "kuberay/gpu-cluster.yaml"])
def test_text_goes_to_cpu_nodes_and_selection_to_gpus(name):
    config = read(name)
    assert second_autoscaler(config, [{"CPU": 1}]) == {"cpu": 1}
    assert second_autoscaler(config, [{"CPU": 1}] * 25) == {"cpu": 2}
    assert second_autoscaler(config, [{"CPU": 4, "GPU": 1}] * 3) == {"gpu": 3}
    both = second_autoscaler(config, [{"CPU": 1}] * 40 + [{"CPU": 4, "GPU": 1}])
    assert both["gpu"] == 1
    assert both["cpu"] >= 1


@pytest.mark.parametrize("name", ["gpu.yaml", "gpu-gcp.yaml"])
def test_a_model_on_eight_gpus_gets_the_large_machine(name):
    assert second_autoscaler(read(name), [{"GPU": 8}]) == {"gpu_large": 1}


@pytest.mark.parametrize(
    ("name", "slice_head", "kind"),
    [
        ("tpu.yaml", "TPU-v6e-8-head", "v6e_8"),
        ("tpu.yaml", "TPU-v6e-16-head", "v6e_16"),
        ("tpu.yaml", "TPU-v5litepod-16-head", "v5e_16"),
        ("kuberay/tpu-cluster.yaml", "TPU-v6e-16-head", "v6e-16"),
    ],
)
def test_a_slice_is_started_when_ray_train_asks_for_its_head(name, slice_head, kind):
    assert first_autoscaler(read(name), {slice_head: 1}) == {kind: 1}
