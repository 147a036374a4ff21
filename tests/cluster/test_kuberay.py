"""KubeRay's manifests: by Ray's own reader of them, by Kubernetes' models, and by KubeRay's fields.

KubeRay's resource definitions are no package that could be installed. FIELDS was written by hand after its API
reference (v1.6, `ray.io/v1`); it says what exists, not what it means.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import validate_config

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "cluster/kuberay").glob("*.yaml"))
CLUSTERS = [path for path in FILES if path.name.endswith("-cluster.yaml")]
JOBS = [path for path in FILES if path.name.endswith("-job.yaml")]

FIELDS = {
    "RayCluster": "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs "
    "suspend managedBy headServiceAnnotations gcsFaultToleranceOptions",
    "authOptions": "mode secretName enableK8sTokenAuth",
    "autoscalerOptions": "version idleTimeoutSeconds upscalingMode resources image imagePullPolicy securityContext env "
    "envFrom volumeMounts",
    "headGroupSpec": "serviceType rayStartParams template headService enableIngress labels resources",
    "workerGroupSpecs": "groupName replicas minReplicas maxReplicas numOfHosts rayStartParams template "
    "idleTimeoutSeconds scaleStrategy suspend labels resources",
    "RayJob": "entrypoint clusterSelector rayClusterSpec runtimeEnvYAML jobId submissionMode metadata "
    "submitterPodTemplate submitterConfig entrypointNumCpus entrypointNumGpus entrypointResources "
    "shutdownAfterJobFinishes ttlSecondsAfterFinished activeDeadlineSeconds backoffLimit suspend deletionStrategy "
    "managedBy",
}


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


def autoscaling_config(path: Path) -> dict:
    """What Ray's autoscaler makes of a RayCluster: it reads the resource itself, by this function."""
    (cluster,) = documents(path)
    cluster["metadata"]["namespace"] = "raylab"
    return _derive_autoscaling_config_from_ray_cr(cluster)


def pods(cluster: dict) -> list[dict]:
    spec = cluster["spec"]
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


@named(CLUSTERS)
def test_rays_autoscaler_reads_it(path):
    config = autoscaling_config(path)
    validate_config(config)
    kinds = config["available_node_types"]
    assert kinds[config["head_node_type"]]["resources"]["CPU"] == 0
    assert all(kind["min_workers"] == 0 for kind in kinds.values())


@named(CLUSTERS)
def test_a_slice_has_as_many_hosts_as_its_topology(path):
    for group in documents(path)[0]["spec"]["workerGroupSpecs"]:
        selector = group["template"]["spec"].get("nodeSelector", {})
        topology = selector.get("cloud.google.com/gke-tpu-topology")
        if topology:
            chips = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["google.com/tpu"])
            first, second = map(int, topology.split("x"))
            assert group["numOfHosts"] * chips == first * second


@named(CLUSTERS + JOBS)
def test_kuberay_knows_every_field(path):
    (resource,) = documents(path)
    assert resource["apiVersion"] == "ray.io/v1"
    spec = resource["spec"]
    assert not set(spec) - set(FIELDS[resource["kind"]].split())
    for name in ("authOptions", "autoscalerOptions", "headGroupSpec"):
        assert not set(spec.get(name, {})) - set(FIELDS[name].split())
    for group in spec.get("workerGroupSpecs", []):
        assert not set(group) - set(FIELDS["workerGroupSpecs"].split())
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def check(value, kind: str) -> None:
    """Compare a value with one of Kubernetes' models: unknown fields and wrong types are errors."""
    import kubernetes.client as models

    if inner := re.fullmatch(r"[Ll]ist\[(.*)\]", kind):
        for item in value:
            check(item, inner[1])
    elif inner := re.fullmatch(r"[Dd]ict[\[(]str, ?(.*)[\])]", kind):
        for item in value.values():
            check(item, inner[1])
    elif kind in ("str", "int", "bool"):
        assert isinstance(value, {"str": str, "int": int, "bool": bool}[kind]), (value, kind)
    elif kind not in ("object", "datetime"):
        model = getattr(models, kind)
        fields = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
        assert not set(value) - set(fields), (set(value) - set(fields), kind)
        for name, item in value.items():
            check(item, fields[name])


@named(CLUSTERS)
def test_kubernetes_knows_every_field_of_the_pods(path):
    pytest.importorskip("kubernetes", reason="the models of package kubernetes are not installed")
    for template in pods(documents(path)[0]):
        check(template, "V1PodTemplateSpec")


def test_kubernetes_knows_every_field_of_the_access_rules():
    pytest.importorskip("kubernetes", reason="the models of package kubernetes are not installed")
    for document in documents(ROOT / "cluster/kuberay/access.yaml"):
        check(document, f"V1{document['kind']}")
    with pytest.raises(AssertionError, match="ingres"):
        check({"spec": {"ingres": []}}, "V1NetworkPolicy")


@named(CLUSTERS)
def test_every_request_needs_the_token_and_the_dashboard_has_no_address_outside(path):
    spec = documents(path)[0]["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert "enableIngress" not in spec["headGroupSpec"]


@named(CLUSTERS)
def test_pods_run_as_a_user_without_privileges(path):
    for template in pods(documents(path)[0]):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@named(CLUSTERS)
def test_workers_may_do_nothing_in_kubernetes(path):
    accounts = {document["metadata"]["name"] for document in documents(ROOT / "cluster/kuberay/access.yaml")[:2]}
    head, *workers = [template["spec"] for template in pods(documents(path)[0])]
    assert {head["serviceAccountName"], *(pod["serviceAccountName"] for pod in workers)} == accounts
    assert all(pod["automountServiceAccountToken"] is False for pod in workers)


@named(CLUSTERS)
def test_secrets_are_references(path):
    for template in pods(documents(path)[0]):
        for container in template["spec"]["containers"]:
            keys = [entry for entry in container.get("env", []) if re.search("KEY|TOKEN|SECRET", entry["name"])]
            assert keys
            assert all("secretKeyRef" in entry["valueFrom"] for entry in keys)


@named(CLUSTERS)
def test_the_version_is_that_of_the_pins(path):
    (pin,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert documents(path)[0]["spec"]["rayVersion"] == pin


@named(JOBS)
def test_a_job_goes_to_a_cluster_that_exists_and_runs_a_file_that_exists(path):
    names = {documents(cluster)[0]["metadata"]["name"] for cluster in CLUSTERS}
    spec = documents(path)[0]["spec"]
    assert spec["clusterSelector"]["ray.io/cluster"] in names
    program = spec["entrypoint"].split()[1]
    assert (ROOT / program.removeprefix("/home/ray/raylab/")).exists()
