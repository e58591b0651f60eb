"""The world of the end-to-end tests is as hard as it says: spoiled calls, and what teardowns trip over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

from sdctl.config.model import Config
from sdctl.render.cluster import cluster_stack
from sdctl.render.network import network_stack
from support.aws_faults import ResourceFault
from support.aws_proxy import Effect, Rule
from support.aws_stacks import Stacks
from support.aws_world import ACCOUNT, REGION, STACK, USER, World

CALLS = {
    "s3": "list_buckets", "ec2": "describe_vpcs", "cloudformation": "list_stacks", "iam": "list_roles",
    "dynamodb": "list_tables", "sqs": "list_queues", "eks": "list_clusters", "lambda": "list_functions",
}  # fmt: skip


@pytest.fixture(autouse=True)
def all_is_well(world: World) -> Iterator[None]:
    yield
    world.proxy.rules.clear()
    world.set_faults()


def through_the_door(world: World, service: str) -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service, region_name=REGION, endpoint_url=world.proxy.url, **world.credentials,
        config=BotoConfig(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5),
    )  # fmt: skip


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize(
    ("effect", "code"),
    [("throttle", "Throttling"), ("expired", "ExpiredToken"), ("denied", "AccessDenied"),
     ("error", "InternalFailure")],
)  # fmt: skip
def test_a_refusal_is_in_the_words_of_each_service(
    world: World, service: str, effect: Effect, code: str
) -> None:
    world.proxy.rules.append(Rule(effect, service))
    call = getattr(through_the_door(world, service), CALLS[service])
    with pytest.raises(ClientError) as caught:
        call()
    assert caught.value.response["Error"]["Code"] == code
    call()  # the next one passes


def test_a_dropped_call_never_arrives_and_a_lost_one_does(world: World) -> None:
    sqs = through_the_door(world, "sqs")
    for effect, names in (("drop", []), ("lose", ["lose"])):
        world.proxy.rules.append(Rule(effect, "sqs", "CreateQueue"))  # type: ignore[arg-type]
        with pytest.raises(BotoCoreError):
            sqs.create_queue(QueueName=effect)
        urls = sqs.list_queues().get("QueueUrls", [])
        assert [url.rpartition("/")[2] for url in urls] == names
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName="lose")["QueueUrl"])


def test_a_rule_counts_the_calls_that_fit_it(world: World) -> None:
    sqs = through_the_door(world, "sqs")
    world.proxy.rules.append(Rule("denied", "sqs", "ListQueues", skip=1, times=2))
    answers = []
    for _ in range(4):
        try:
            sqs.list_queues()
            answers.append("yes")
        except ClientError:
            answers.append("no")
    assert answers == ["yes", "no", "no", "yes"]


def test_a_resource_fails_once_and_its_stack_rolls_back(world: World) -> None:
    stacks = Stacks(world.client("cloudformation"))
    world.set_faults([ResourceFault(f"{STACK}-network", "Vpc", "create", "it shall not be")])
    stack = network_stack(Config(), partition="aws", zones=(f"{REGION}a", f"{REGION}b"))
    assert stack is not None
    applied = stacks.apply(stack)
    assert (applied.status, applied.failures["Vpc"]) == ("ROLLBACK_COMPLETE", "it shall not be")
    assert stacks.delete(stack.name) == ""
    assert stacks.apply(stack).status == "CREATE_COMPLETE"
    assert stacks.delete(stack.name) == ""


@pytest.fixture
def stacks(world: World) -> Iterator[Stacks]:
    """Bring up the network and the cluster, and delete them however the test ended."""
    stacks = Stacks(world.client("cloudformation"))
    world.api.wipe()
    network = network_stack(Config(), partition="aws", zones=(f"{REGION}a", f"{REGION}b"))
    assert network is not None
    subnets = stacks.apply(network).outputs["PrivateSubnetIds"]
    deployer = f"arn:aws:iam::{ACCOUNT}:user/{USER}"
    cluster = cluster_stack(Config(), model_bucket="models")
    assert stacks.apply(cluster, SubnetIds=subnets, DeployerPrincipalArn=deployer).status == "CREATE_COMPLETE"
    yield stacks
    ec2 = world.client("ec2")
    for one in instances(world):
        ec2.terminate_instances(InstanceIds=[one])
    for template in ec2.describe_launch_templates()["LaunchTemplates"]:
        if template["LaunchTemplateName"].startswith("karpenter"):
            ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])
    assert stacks.delete(f"{STACK}-cluster") == ""
    assert stacks.delete(f"{STACK}-network") == ""


def instances(world: World) -> list[str]:
    held = world.client("ec2").describe_instances()["Reservations"]
    found = [one for reservation in held for one in reservation["Instances"]]
    return [one["InstanceId"] for one in found if one["State"]["Name"] != "terminated"]


def start_a_node(world: World) -> None:
    """Put what Karpenter and a runtime's release would have put into the cluster."""
    api = world.api
    for plural, kind, group in (("nodepools", "NodePool", "karpenter.sh"),
                                ("nodeclaims", "NodeClaim", "karpenter.sh")):  # fmt: skip
        names = {"plural": plural, "kind": kind}
        spec = {"group": group, "scope": "Cluster", "names": names, "versions": [{"name": "v1"}]}
        api.put("CustomResourceDefinition", f"{plural}.{group}", spec=spec)
    template = {"metadata": {"labels": {}}, "spec": {"containers": []}}
    api.put("Deployment", "karpenter", "kube-system", spec={"template": template, "selector": {}})
    reference = {"nodeClassRef": {"name": "gpu"}}
    api.put("NodePool", "gpu", spec={"template": {"spec": reference}})
    container = {"name": "runtime", "resources": {"limits": {"nvidia.com/gpu": 1}}}
    template = {"metadata": {"labels": {}}, "spec": {"containers": [container]}}
    api.put("Deployment", "runtime", "default", spec={"template": template, "selector": {}, "replicas": 1})
    world.wait(lambda: instances(world), "instance")


def test_karpenter_ends_its_nodes_when_their_pool_goes_while_it_is_there(
    world: World, stacks: Stacks
) -> None:
    start_a_node(world)
    world.api.remove("Deployment", "runtime", "default")
    world.api.remove("NodePool", "gpu")
    world.wait(lambda: not instances(world), "end of the instance")
    world.wait(lambda: not world.api.objects("NodeClaim"), "end of the claim")


def test_without_karpenter_a_node_outlives_its_pool_and_holds_the_network(
    world: World, stacks: Stacks
) -> None:
    start_a_node(world)
    world.api.remove("Deployment", "karpenter", "kube-system")
    world.api.remove("NodePool", "gpu")
    [claim] = world.api.objects("NodeClaim")
    assert claim["metadata"]["finalizers"] == ["karpenter.sh/termination"]
    assert stacks.delete(f"{STACK}-cluster") == ""
    assert instances(world)
    assert stacks.delete(f"{STACK}-network") == "DELETE_FAILED"
