"""A deploy and a teardown that meet trouble of every kind, at every step, and get where they were going."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import pytest

from sdctl.errors import ExitCode
from support.aws_mishaps import SURVIVED, AwsCall, ClusterCall, Kind, Mishap
from support.aws_proxy import Rule
from support.aws_world import STACK, World, aws_world
from support.cli import Ran

DEPLOY = ("deploy", "--yes", "--skip-doctor")
DESTROY = ("destroy", "--yes")
NETWORK, CLUSTER, FRONT = f"{STACK}-network", f"{STACK}-cluster", f"{STACK}Stack"
RUNTIME = f"{STACK}-runtime-sdruntime"


def begun(stack: str, resource: str) -> AwsCall:
    return AwsCall("cloudformation", "ExecuteChangeSet", stack, resource)


def deleted(stack: str, resource: str) -> AwsCall:
    return AwsCall("cloudformation", "DeleteStack", stack, resource)


# One place or more in each step, in an order in which they come.
DEPLOY_PLACES = (
    AwsCall("s3", f"PUT /{STACK}-assets"),
    AwsCall("s3", "PUT", "/functions/"),
    AwsCall("iam", "CreateServiceLinkedRole"),
    AwsCall("cloudformation", "CreateChangeSet", NETWORK),
    begun(NETWORK, "NatA"),
    AwsCall("cloudformation", "CreateChangeSet", FRONT),
    begun(FRONT, "TaskTable"),
    AwsCall("cloudformation", "CreateChangeSet", CLUSTER),
    begun(CLUSTER, "SystemNodes"),
    begun(RUNTIME, "Queue"),
    ClusterCall("POST", "/namespaces/keda/secrets"),
    ClusterCall("PATCH", "/customresourcedefinitions/nodepools"),
    ClusterCall("PATCH", "/deployments/karpenter"),
    ClusterCall("POST", "/namespaces/sdruntime/secrets"),
)
DESTROY_PLACES = (
    ClusterCall("PATCH", "/scaledobjects/"),
    ClusterCall("DELETE", "/nodepools/"),
    ClusterCall("DELETE", "/ec2nodeclasses/"),
    ClusterCall("DELETE", "/namespaces/sdruntime/deployments/"),
    ClusterCall("DELETE", "/namespaces/keda/deployments/"),
    ClusterCall("DELETE", "/deployments/karpenter"),
    deleted(RUNTIME, "Queue"),
    deleted(FRONT, "TaskTable"),
    deleted(CLUSTER, "SystemNodes"),
    deleted(NETWORK, "PrivateSubnetA"),
    AwsCall("s3", f"DELETE /{STACK}-assets"),
)


def bad_weather() -> list[Rule]:
    """What the command itself gets over, all in one run."""
    return [
        Rule("throttle", "cloudformation", "CreateChangeSet", times=3),
        Rule("error", "cloudformation", "ExecuteChangeSet", times=2),
        Rule("lose", "cloudformation", "DeleteStack", times=1),
        Rule("drop", "cloudformation", "DescribeStack", skip=2, times=3),
        Rule("throttle", "sts", times=2),
        Rule("error", "s3", "PUT", times=2),
        Rule("drop", "eks", times=1),
    ]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with aws_world(tmp_path) as world:
        yield world


def well(ran: Ran) -> None:
    assert ran.code == 0, f"{ran.stdout}\n{ran.stderr}"


def told(mishap: Mishap, ran: Ran) -> None:
    """The command says that it did not get through, in the way that fits."""
    assert mishap.has_happened, f"it never came to {mishap}:\n{ran.stderr}"
    message = f"{mishap}: {ran.code}\n{ran.stdout}\n{ran.stderr}"
    assert "Traceback" not in ran.stderr, message
    match mishap.kind:
        case "killed":
            assert ran.code == -9, message
        case "interrupted":
            assert ran.code == ExitCode.INTERRUPTED, message
        case "failed":
            assert ran.code == ExitCode.DEPLOY_FAILED, message
            assert "GeneralServiceException" in ran.stderr, message
        case "expired":
            assert ran.code == ExitCode.REMOTE, message
            assert "sign in again" in ran.stderr, message
        case "denied":
            assert ran.code in (ExitCode.REMOTE, ExitCode.DEPLOY_FAILED), message
        case _:
            well(ran)


def go_through(world: World, words: tuple[str, ...], mishaps: Sequence[Mishap]) -> None:
    """Run a command again and again, each time into the next mishap."""
    for mishap in mishaps:
        told(mishap, mishap.strike(world, words))


def is_deployed(world: World) -> None:
    """Everything is there, once, and whole; a further deploy would change nothing."""
    assert world.stacks().keys() == {NETWORK, CLUSTER, FRONT, RUNTIME}
    assert set(world.stacks().values()) <= {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
    assert world.releases() == dict.fromkeys(
        ("kube-system/karpenter-crd", "kube-system/karpenter", "keda/keda", "sdruntime/sdruntime"), "deployed"
    )
    plan = world.run("deploy", "--plan", "-o", "json")
    well(plan)
    assert {step["action"] for step in plan.document["steps"]} == {"none"}
    assert len([one for one in world.buckets() if one.startswith(f"{STACK}-assets")]) == 1
    assert world.pending_change_sets() == []


def is_gone(world: World) -> None:
    assert world.stacks() == {}
    assert world.left() == []
    assert [one for one in world.buckets() if one.startswith(f"{STACK}-assets")] == []


def bring_up_nodes(world: World) -> None:
    world.controllers.demand("sdruntime", 1)
    world.wait(lambda: world.api.objects("NodeClaim"), "a GPU node")


@pytest.mark.slow
def test_a_deploy_gets_there_after_a_mishap_of_each_kind_in_turn(world: World) -> None:
    kinds: tuple[Kind, ...] = (
        "killed", "expired", "denied", "interrupted", "failed", "denied", "killed", "expired", "interrupted",
        "failed", "interrupted", "denied", "killed", "interrupted",
    )  # fmt: skip
    go_through(world, DEPLOY, [Mishap(*one) for one in zip(kinds, DEPLOY_PLACES, strict=True)])
    world.proxy.rules[:] = bad_weather()
    well(world.run(*DEPLOY))
    world.proxy.rules.clear()
    is_deployed(world)


@pytest.mark.slow
def test_a_teardown_gets_there_after_a_mishap_of_each_kind_in_turn(world: World) -> None:
    well(world.run(*DEPLOY))
    bring_up_nodes(world)
    kinds: tuple[Kind, ...] = (
        "interrupted", "killed", "denied", "interrupted", "denied", "killed", "failed", "expired", "killed",
        "failed", "interrupted",
    )  # fmt: skip
    go_through(world, DESTROY, [Mishap(*one) for one in zip(kinds, DESTROY_PLACES, strict=True)])
    world.proxy.rules[:] = bad_weather()
    well(world.run(*DESTROY))
    world.proxy.rules.clear()
    is_gone(world)


def everywhere(kind: Kind, places: Sequence[AwsCall | ClusterCall]) -> list[Mishap]:
    return [mishap for place in places if (mishap := Mishap(kind, place)).can_happen]


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["expired", "denied", "interrupted", "killed", "failed"])
def test_a_mishap_at_every_step_of_a_deploy_and_of_its_teardown_is_no_end(world: World, kind: Kind) -> None:
    go_through(world, DEPLOY, everywhere(kind, DEPLOY_PLACES))
    well(world.run(*DEPLOY))
    is_deployed(world)
    bring_up_nodes(world)
    go_through(world, DESTROY, everywhere(kind, DESTROY_PLACES))
    well(world.run(*DESTROY))
    is_gone(world)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", sorted(SURVIVED))
def test_throttling_and_lost_connections_are_got_over_in_one_run(world: World, kind: Kind) -> None:
    pairs = zip_longest(everywhere(kind, DEPLOY_PLACES), everywhere(kind, DESTROY_PLACES))
    for at_deploy, at_destroy in pairs:
        well(at_deploy.strike(world, DEPLOY) if at_deploy else world.run(*DEPLOY))
        is_deployed(world)
        well(at_destroy.strike(world, DESTROY) if at_destroy else world.run(*DESTROY))
        is_gone(world)
        assert all(one.has_happened for one in (at_deploy, at_destroy) if one)
