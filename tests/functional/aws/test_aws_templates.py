"""Every template on the strict emulator: created, updated, replaced where it must be, deleted to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sdctl.config.model import Config
from sdctl.render.cluster import cluster_stack
from sdctl.render.network import network_stack
from sdctl.render.stacks import Stack
from support.aws_stacks import Applied, Stacks
from support.aws_world import ACCOUNT, USER, World

ZONES = ("us-west-2a", "us-west-2b", "us-west-2c")
DEPLOYER = f"arn:aws:iam::{ACCOUNT}:user/{USER}"


def network(stack_name: str = "farm", **changes: Any) -> Stack:
    config = Config.model_validate({"stackName": stack_name, "network": changes})
    stack = network_stack(config, partition="aws", zones=ZONES)
    assert stack is not None
    return stack


@pytest.fixture(scope="module")
def stacks(world: World) -> Stacks:
    return Stacks(world.client("cloudformation"))


def in_the_account(world: World) -> dict[str, list[str]]:
    """List what of a network and a cluster there is, besides the default VPC's."""
    ec2, eks, iam, logs = (world.client(name) for name in ("ec2", "eks", "iam", "logs"))
    networks = [one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"] if not one["IsDefault"]]
    gateways = ec2.describe_nat_gateways()["NatGateways"]
    default = {one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"] if one["IsDefault"]}
    return {
        "networks": networks,
        "subnets": [o["SubnetId"] for o in ec2.describe_subnets()["Subnets"] if o["VpcId"] not in default],
        "gateways": [one["NatGatewayId"] for one in gateways if one["State"] != "deleted"],
        "addresses": [one["PublicIp"] for one in ec2.describe_addresses()["Addresses"]],
        "endpoints": [one["VpcEndpointId"] for one in ec2.describe_vpc_endpoints()["VpcEndpoints"]],
        "interfaces": [
            one["NetworkInterfaceId"] for one in ec2.describe_network_interfaces()["NetworkInterfaces"]
        ],
        "templates": [one["LaunchTemplateId"] for one in ec2.describe_launch_templates()["LaunchTemplates"]],
        "clusters": eks.list_clusters()["clusters"],
        "roles": [one["RoleName"] for one in iam.list_roles()["Roles"]],
        "profiles": [one["Arn"] for one in iam.list_instance_profiles()["InstanceProfiles"]],
        "queues": world.client("sqs").list_queues().get("QueueUrls", []),
        "rules": [one["Name"] for one in world.client("events").list_rules()["Rules"]],
        "log groups": [one["logGroupName"] for one in logs.describe_log_groups()["logGroups"]],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def everything_is_deleted(world: World, stacks: Stacks) -> Iterator[None]:
    before = in_the_account(world)
    yield
    left = in_the_account(world)
    for name in ("farm-cluster", "farm-network"):
        stacks.delete(name)  # what a failed test has left, so that others do not fail for it
    assert left == before


def succeeded(applied: Applied, status: str) -> Applied:
    assert (applied.status, applied.failures) == (status, {})
    return applied


@pytest.mark.parametrize("mode", ["single", "perZone", "none"])
def test_a_network_is_created_gets_endpoints_moves_to_other_addresses_and_goes(
    world: World, stacks: Stacks, mode: str
) -> None:
    made = succeeded(stacks.apply(network(natMode=mode)), "CREATE_COMPLETE")
    assert len(made.outputs["PrivateSubnetIds"].split(",")) == 3
    there = in_the_account(world)
    count = {"single": 1, "perZone": 3, "none": 0}[mode]
    assert (len(there["gateways"]), len(there["addresses"])) == (count, count)
    changed = stacks.apply(network(natMode=mode, interfaceEndpoints=True))
    if mode == "none":
        assert "didn't contain changes" in changed.status
    else:
        succeeded(changed, "UPDATE_COMPLETE")
        assert changed.replaced == ()
    moved = succeeded(
        stacks.apply(network(natMode=mode, interfaceEndpoints=True, vpcCidr="172.20.0.0/16")),
        "UPDATE_COMPLETE",
    )
    assert "Vpc" in moved.replaced
    assert moved.outputs["VpcId"] != made.outputs["VpcId"]
    assert stacks.delete("farm-network") == ""


def test_a_network_changes_between_the_ways_out(world: World, stacks: Stacks) -> None:
    succeeded(stacks.apply(network(natMode="single")), "CREATE_COMPLETE")
    for mode, gateways in (("perZone", 3), ("none", 0), ("single", 1)):
        succeeded(stacks.apply(network(natMode=mode)), "UPDATE_COMPLETE")
        assert len(in_the_account(world)["gateways"]) == gateways
    assert stacks.delete("farm-network") == ""


def cluster(**changes: Any) -> Stack:
    return cluster_stack(Config.model_validate({"stackName": "farm"} | changes), model_bucket="models")


def test_a_cluster_is_created_changed_in_place_gets_other_nodes_and_goes_before_its_network(
    world: World, stacks: Stacks
) -> None:
    subnets = succeeded(stacks.apply(network()), "CREATE_COMPLETE").outputs["PrivateSubnetIds"]
    given = {"SubnetIds": subnets, "DeployerPrincipalArn": DEPLOYER}
    made = succeeded(stacks.apply(cluster(), **given, KubernetesVersion="1.35"), "CREATE_COMPLETE")
    assert made.outputs["ClusterEndpoint"] == world.api.url
    changed = succeeded(
        stacks.apply(cluster(logRetentionDays=7, tags={"team": "art"}), **given, KubernetesVersion="1.36"),
        "UPDATE_COMPLETE",
    )
    assert "Cluster" not in changed.replaced
    assert world.client("eks").describe_cluster(name="farm")["cluster"]["version"] == "1.36"
    other = cluster(clusterComponents={"instanceType": "m7i.xlarge", "desiredCount": 3})
    nodes = succeeded(stacks.apply(other, **given, KubernetesVersion="1.36"), "UPDATE_COMPLETE")
    assert "SystemNodes" in nodes.replaced
    assert "Cluster" not in nodes.replaced
    assert stacks.delete("farm-network") == "DELETE_FAILED"
    assert stacks.delete("farm-cluster") == ""
    assert stacks.delete("farm-network") == ""


def test_a_cluster_in_an_unknown_subnet_is_refused_and_leaves_nothing(stacks: Stacks) -> None:
    given = {"SubnetIds": "subnet-1,subnet-2", "DeployerPrincipalArn": DEPLOYER}
    applied = stacks.apply(cluster(), **given)
    assert applied.status == "ROLLBACK_COMPLETE"
    assert "subnets that do not exist" in applied.failures["Cluster"]
    assert stacks.delete("farm-cluster") == ""


def test_a_session_is_no_deployer(stacks: Stacks) -> None:
    subnets = succeeded(stacks.apply(network()), "CREATE_COMPLETE").outputs["PrivateSubnetIds"]
    session = f"arn:aws:sts::{ACCOUNT}:assumed-role/Deployer/me"
    applied = stacks.apply(cluster(), SubnetIds=subnets, DeployerPrincipalArn=session)
    assert applied.status == "ROLLBACK_COMPLETE"
    assert "no session" in applied.failures["DeployerAccess"]
    assert stacks.delete("farm-cluster") == ""
    assert stacks.delete("farm-network") == ""
