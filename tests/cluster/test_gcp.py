"""cluster/gpu-gcp.yaml and cluster/tpu.yaml through Ray's GCP provider: what it would send, by Google's own schemas.

The schemas are the discovery documents that ship in google-api-python-client; answers of the services are made up.
"""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import MagicMock, patch

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

pytest.importorskip("googleapiclient", reason="google-api-python-client (extra gcp) is not installed")
from googleapiclient.discovery_cache import get_static_doc
from ray.autoscaler._private.gcp import config as gcp
from ray.autoscaler._private.gcp.node import GCPTPU, GCPCompute, GCPNodeType
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

ROOT = Path(__file__).parents[2]
HEAD_ACCOUNT = "ray-autoscaler-sa-v1@my-project.iam.gserviceaccount.com"
WORKER_ACCOUNT = "raylab-worker@my-project.iam.gserviceaccount.com"


def schema(service: str, version: str, name: str) -> dict:
    """A discovery document's schema as a JSON schema that knows no key but those listed."""
    document = json.loads(get_static_doc(service, version))

    def strict(node):
        if isinstance(node, list):
            return [strict(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return {"$ref": f"#/schemas/{node['$ref']}"}
        kept = {key: strict(node[key]) for key in ("type", "items", "enum", "additionalProperties") if key in node}
        if isinstance(node.get("properties"), dict):
            kept["properties"] = {key: strict(value) for key, value in node["properties"].items()}
            kept.setdefault("additionalProperties", False)
        return kept

    schemas = {key: strict(value) for key, value in document["schemas"].items()}
    return {"$ref": f"#/schemas/{name}", "schemas": schemas}


def cloud(key: str) -> tuple[MagicMock, MagicMock, MagicMock, MagicMock]:
    """A project that knows our SSH key and has one subnet."""
    crm, iam, compute, tpu = MagicMock(), MagicMock(), MagicMock(), MagicMock()
    crm.projects().get().execute.return_value = {"lifecycleState": "ACTIVE", "projectId": "my-project"}
    crm.projects().getIamPolicy().execute.return_value = {"bindings": []}
    iam.projects().serviceAccounts().get().execute.return_value = {"email": HEAD_ACCOUNT, "projectId": "my-project"}
    keys = {"items": [{"key": "ssh-keys", "value": f"ubuntu:ssh-rsa {key} ubuntu"}]}
    compute.projects().get().execute.return_value = {"commonInstanceMetadata": keys, "name": "my-project"}
    compute.subnetworks().list().execute.return_value = {"items": [{"selfLink": "regions/r/subnetworks/default"}]}
    return crm, iam, compute, tpu


@pytest.fixture(scope="module", params=["gpu-gcp.yaml", "tpu.yaml"])
def sent(request, tmp_path_factory) -> dict[str, tuple[GCPNodeType, dict]]:
    """Node type -> the kind of machine, and the request that would start one."""
    home = tmp_path_factory.mktemp("home")
    read = prepare_config(yaml.safe_load((ROOT / "cluster" / request.param).read_text()))
    filled = GCPNodeProvider.fillout_available_node_types_resources(read)
    validate_config(filled)
    clients = cloud("AAAA")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("HOME", str(home))
        key = gcp.generate_ssh_key_name("gcp", 0, read["provider"]["region"], "my-project", "ubuntu")
        (home / ".ssh").mkdir()
        Path(gcp.generate_ssh_key_paths(key)[1]).write_text("")
        with patch.object(gcp, "construct_clients_from_provider_config", return_value=clients):
            config = gcp.bootstrap_gcp(filled)
    where = ("my-project", config["provider"]["availability_zone"], config["cluster_name"])
    compute, tpu = GCPCompute(clients[2], *where), GCPTPU(clients[3], *where)
    tags = {"ray-node-name": "ray-raylab-worker", "ray-node-type": "worker"}
    bodies = {}
    for name, kind in config["available_node_types"].items():
        node_config = kind["node_config"] | (config["head_node"] if name == config["head_node_type"] else {})
        which = gcp.get_node_type(node_config)
        on_tpu = which == GCPNodeType.TPU
        for _ in range(2):  # a spot machine that went is started once more from the same config
            (tpu if on_tpu else compute).create_instance(node_config, tags, wait_for_operation=False)
        call = clients[3].projects().locations().nodes().create if on_tpu else clients[2].instances().insert
        bodies[name] = (which, call.call_args.kwargs["body"])
    return bodies


def test_google_knows_every_field(sent):
    schemas = {
        GCPNodeType.COMPUTE: schema("compute", "v1", "Instance"),
        GCPNodeType.TPU: schema("tpu", "v2alpha1", "Node"),
    }
    for which, body in sent.values():
        jsonschema.validate(body, schemas[which])


def test_google_refuses_a_field_that_does_not_exist():
    with pytest.raises(jsonschema.ValidationError, match="spott"):
        jsonschema.validate({"schedulingConfig": {"spott": True}}, schema("tpu", "v2alpha1", "Node"))


def test_workers_are_spot_machines_and_the_head_is_not(sent):
    def spot(body: dict) -> bool:
        return (body.get("schedulingConfig") or {}).get("spot", False) or (
            (body.get("scheduling") or {}).get("provisioningModel") == "SPOT"
        )

    assert {name for name, (_, body) in sent.items() if not spot(body)} == {"head"}


def test_workers_have_the_workers_account_with_the_scopes_of_a_bucket(sent):
    for name, (_, body) in sent.items():
        account = body.get("serviceAccount") or body["serviceAccounts"][0]
        assert account["email"] == (HEAD_ACCOUNT if name == "head" else WORKER_ACCOUNT)
        if name != "head":
            scopes = account.get("scope") or account["scopes"]
            assert [scope.rpartition("/")[2] for scope in scopes] == ["devstorage.read_write", "logging.write"]


def test_slices_carry_the_resource_by_which_ray_train_asks_for_them():
    from ray._private.accelerators.tpu import get_chips_per_host, infer_tpu_pod_type_from_topology

    read = prepare_config(yaml.safe_load((ROOT / "cluster/tpu.yaml").read_text()))
    types = GCPNodeProvider.fillout_available_node_types_resources(read)["available_node_types"]
    slices = [kind for kind in types.values() if "TPU" in kind["resources"]]
    assert len(slices) == 3
    for kind in slices:
        asked = kind["node_config"]["acceleratorConfig"]
        version = asked["type"].lower().replace("lite_pod", "litepod")
        pod = infer_tpu_pod_type_from_topology(asked["topology"], f"TPU-{version.upper()}")
        assert kind["resources"][f"TPU-{pod}-head"] == 1
        assert kind["resources"]["TPU"] == get_chips_per_host(asked["topology"], version)
