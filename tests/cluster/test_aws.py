"""cluster/gpu.yaml through Ray's AWS provider, against moto's EC2: the code that `ray up` runs starts the machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
FAKE = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-west-2"}


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    """An account with the two roles of docs/cluster.md and nothing else; Ray keeps its keys in a home of its own."""
    from moto import mock_aws

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name, value in FAKE.items():
            patch.setenv(name, value)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)  # of the tests' own storage
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        import boto3

        iam = boto3.client("iam")
        for name in ("raylab-head", "raylab-worker"):
            document = (ROOT / "cluster/iam" / f"aws-{name.removeprefix('raylab-')}.json").read_text()
            iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
            iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=document)
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        yield boto3


@pytest.fixture(scope="module")
def config(account) -> dict:
    from ray.autoscaler._private.aws.config import bootstrap_aws

    prepared = prepare_config(yaml.safe_load((ROOT / "cluster/gpu.yaml").read_text()))
    validate_config(prepared)
    return bootstrap_aws(prepared)


@pytest.fixture(scope="module")
def machines(account, config) -> dict[str, dict]:
    """Node type -> the machine that EC2 started for it."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    started = {}
    for name, kind in config["available_node_types"].items():
        node_config = kind["node_config"] | (config["head_node"] if name == config["head_node_type"] else {})
        tags = {"ray-node-type": "worker", "ray-user-node-type": name}
        (started[name],) = provider.create_node(dict(node_config), tags, 1)
    ec2 = account.client("ec2")
    found = [machine for group in ec2.describe_instances()["Reservations"] for machine in group["Instances"]]
    by_id = {machine["InstanceId"]: machine for machine in found}
    return {name: by_id[machine] for name, machine in started.items()}


def test_resources_are_those_of_the_machines(account, config):
    for kind in config["available_node_types"].values():
        machine = kind["node_config"]["InstanceType"]
        (facts,) = account.client("ec2").describe_instance_types(InstanceTypes=[machine])["InstanceTypes"]
        cards = sum(card["Count"] for card in facts.get("GpuInfo", {}).get("Gpus", []))
        assert kind["resources"].get("GPU", 0) == cards
        assert kind["resources"]["CPU"] in (0, facts["VCpuInfo"]["DefaultVCpus"])


def test_ray_made_no_role_with_full_access(account, machines):
    assert {role["RoleName"] for role in account.client("iam").list_roles()["Roles"]} == {
        "raylab-head",
        "raylab-worker",
    }
    for name, machine in machines.items():
        role = "raylab-head" if name == "head" else "raylab-worker"
        assert machine["IamInstanceProfile"]["Arn"].endswith(f"/{role}")


def test_workers_are_spot_machines_and_the_head_is_not(machines):
    assert {name for name, machine in machines.items() if machine.get("InstanceLifecycle") != "spot"} == {"head"}


def test_disks_are_encrypted_and_end_with_their_machine(account, machines):
    volumes = account.client("ec2").describe_volumes()["Volumes"]
    assert len(volumes) == len(machines)
    assert all(volume["Encrypted"] and volume["Size"] >= 200 for volume in volumes)
    for machine in machines.values():
        assert all(disk["Ebs"]["DeleteOnTermination"] for disk in machine["BlockDeviceMappings"])


def test_credentials_of_a_machine_want_a_session(machines):
    assert all(machine["MetadataOptions"]["HttpTokens"] == "required" for machine in machines.values())


def test_only_ssh_is_open_to_the_world(account, machines):
    (group,) = {group["GroupId"] for machine in machines.values() for group in machine["SecurityGroups"]}
    (facts,) = account.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert [rule["FromPort"] for rule in facts["IpPermissions"] if rule["IpRanges"]] == [22]


@pytest.mark.parametrize("name", ["head", "worker"])
def test_policies_allow_no_action_by_wildcard(name):
    policy = json.loads((ROOT / f"cluster/iam/aws-{name}.json").read_text())
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not [action for action in actions if "*" in action]
        looks = all(":Describe" in action for action in actions)
        assert looks or statement["Resource"] != "*" or actions == ["ec2:RunInstances"]
