"""Every template on the strict emulator: created, updated, replaced where it must be, deleted to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sdctl.config.model import Config
from sdctl.deploy.bundle import build_bundles
from sdctl.render.cluster import cluster_stack
from sdctl.render.network import network_stack
from sdctl.render.options import option_stacks
from sdctl.render.runtime import runtime_stack
from sdctl.render.stacks import Stack, front_stack
from support.aws_stacks import Applied, Stacks
from support.aws_world import ACCOUNT, REGION, USER, World

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
        "tables": world.client("dynamodb").list_tables()["TableNames"],
        "parameters": [one["Name"] for one in world.client("ssm").describe_parameters()["Parameters"]],
        "topics": [one["TopicArn"] for one in world.client("sns").list_topics()["Topics"]],
        "interfaces of programs": [one["id"] for one in world.client("apigateway").get_rest_apis()["items"]],
        "keys": [one["id"] for one in world.client("apigateway").get_api_keys()["items"]],
        "alarms": [o["AlarmName"] for o in world.client("cloudwatch").describe_alarms()["MetricAlarms"]],
        "queues": world.client("sqs").list_queues().get("QueueUrls", []),
        "rules": [one["Name"] for one in world.client("events").list_rules()["Rules"]],
        "log groups": [one["logGroupName"] for one in logs.describe_log_groups()["logGroups"]],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def everything_is_deleted(world: World, stacks: Stacks) -> Iterator[None]:
    before = in_the_account(world)
    yield
    left = in_the_account(world)
    for name in ("farm-runtime-one", "farmStack", "farm-cluster", "farm-network"):
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


@pytest.fixture(scope="module")
def code_keys(world: World) -> dict[str, str]:
    """Put the functions where the front expects them."""
    s3 = world.client("s3")
    s3.create_bucket(Bucket="assets", CreateBucketConfiguration={"LocationConstraint": REGION})
    for name, bundle in build_bundles().items():
        s3.put_object(Bucket="assets", Key=f"{name}.zip", Body=bundle.zip_bytes)
    return {name: f"{name}.zip" for name in build_bundles()}


def configured(**changes: Any) -> Config:
    return Config.model_validate({"stackName": "farm"} | changes)


def front(code_keys: dict[str, str], **changes: Any) -> Stack:
    return front_stack(
        configured(**changes), target="aws", model_bucket="models", asset_bucket="assets",
        code_keys=code_keys,
    )  # fmt: skip


def test_the_front_is_created_changed_and_goes_but_for_its_pictures(
    world: World, stacks: Stacks, code_keys: dict[str, str]
) -> None:
    made = succeeded(stacks.apply(front(code_keys)), "CREATE_COMPLETE")
    throttle = {"APIGW": {"throttle": {"rateLimit": 5, "burstLimit": 7}}}
    changed = succeeded(
        stacks.apply(front(code_keys, **throttle, logRetentionDays=7, tracing=False)), "UPDATE_COMPLETE"
    )
    for kept in ("OutputS3Bucket", "FrontApiEndpoint", "sdNotificationLambdaARN"):
        assert changed.outputs[kept] == made.outputs[kept]
    assert stacks.delete("farmStack") == ""
    world.client("s3").delete_bucket(Bucket=made.outputs["OutputS3Bucket"])


def test_a_runtimes_stack_follows_its_configuration_and_touches_no_other(
    world: World, stacks: Stacks, code_keys: dict[str, str]
) -> None:
    subnets = succeeded(stacks.apply(network()), "CREATE_COMPLETE").outputs["PrivateSubnetIds"]
    given = {"SubnetIds": subnets, "DeployerPrincipalArn": DEPLOYER}
    succeeded(stacks.apply(cluster(), **given), "CREATE_COMPLETE")
    bucket = succeeded(stacks.apply(front(code_keys)), "CREATE_COMPLETE").outputs["OutputS3Bucket"]

    def runtime(**changes: Any) -> Stack:
        config = configured(modelsRuntime=[{"name": "one", "type": "sdwebui"} | changes])
        return runtime_stack(config, config.runtimes[0], target="aws")

    made = succeeded(stacks.apply(runtime(modelFilename="a.safetensors")), "CREATE_COMPLETE")
    [listed] = world.client("ssm").get_parameters_by_path(Path="/sdctl/farm/runtimes")["Parameters"]
    assert '"checkpoint":"a.safetensors"' in listed["Value"]
    changed = succeeded(stacks.apply(runtime(modelFilename="b.safetensors")), "UPDATE_COMPLETE")
    assert changed.outputs == made.outputs
    other_place = succeeded(
        stacks.apply(runtime(modelFilename="b.safetensors", namespace="other")), "UPDATE_COMPLETE"
    )
    assert other_place.outputs["QueueUrl"] == made.outputs["QueueUrl"]
    [association] = [
        one
        for one in world.client("eks").list_pod_identity_associations(clusterName="farm")["associations"]
        if one["serviceAccount"] == "one"
    ]
    assert association["namespace"] == "other"
    assert stacks.delete("farm-runtime-one") == ""
    assert stacks.delete("farmStack") == ""
    assert stacks.delete("farm-cluster") == ""
    assert stacks.delete("farm-network") == ""
    world.client("s3").delete_bucket(Bucket=bucket)


def test_the_stacks_of_options_are_created_changed_and_go(world: World, stacks: Stacks) -> None:
    budget, tuner = {"monthlyAmount": 100, "email": "me@example.com"}, {"delaySeconds": 60}
    for status, tuned in (("CREATE_COMPLETE", tuner), ("UPDATE_COMPLETE", {"delaySeconds": 90})):
        chosen = configured(
            budget=budget | {"monthlyAmount": tuned["delaySeconds"]}, ebsThroughputTuner=tuned
        )
        for stack in option_stacks(chosen).values():
            succeeded(stacks.apply(stack), status)
    machine = world.client("stepfunctions").list_state_machines()["stateMachines"][0]["stateMachineArn"]
    definition = world.client("stepfunctions").describe_state_machine(stateMachineArn=machine)["definition"]
    assert '"Seconds":90' in definition.replace(" ", "")
    assert [stacks.delete(name) for name in ("farm-budget", "farm-tuner")] == ["", ""]
