"""A deploy and a teardown that meet trouble of every kind, at every step, and get where they were going."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sdctl.errors import ExitCode
from support.aws_mishaps import SURVIVED, AwsCall, ClusterCall, Kind, Mishap, Place, strike
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


# Places in an order in which they come one after the other. What goes on beside them gets done meanwhile, so
# that several ways through each plan are needed to meet trouble everywhere.
DEPLOY_WAYS: tuple[tuple[Place, ...], ...] = (
    (
        AwsCall("s3", f"PUT /{STACK}-assets"),
        AwsCall("cloudformation", "CreateChangeSet", NETWORK),
        begun(NETWORK, "NatA"),
        AwsCall("cloudformation", "CreateChangeSet", CLUSTER),
        begun(CLUSTER, "SystemNodes"),
        ClusterCall("PATCH", "/customresourcedefinitions/nodepools"),
        ClusterCall("PATCH", "/deployments/karpenter"),
    ),
    (
        AwsCall("s3", "PUT", "/functions/"),
        AwsCall("cloudformation", "CreateChangeSet", FRONT),
        begun(FRONT, "TaskTable"),
        AwsCall("cloudformation", "CreateChangeSet", RUNTIME),
        begun(RUNTIME, "Queue"),
        ClusterCall("POST", "/namespaces/sdruntime/secrets"),
    ),
    (AwsCall("iam", "CreateServiceLinkedRole"), ClusterCall("POST", "/namespaces/keda/secrets")),
)
DESTROY_WAYS: tuple[tuple[Place, ...], ...] = (
    (
        ClusterCall("PATCH", "/scaledobjects/"),
        ClusterCall("DELETE", "/nodepools/"),
        ClusterCall("DELETE", "/ec2nodeclasses/"),
        ClusterCall("DELETE", "/namespaces/sdruntime/deployments/"),
        ClusterCall("DELETE", "/deployments/karpenter"),
        deleted(CLUSTER, "SystemNodes"),
        AwsCall("cloudformation", "DeleteStack", NETWORK),
        AwsCall("s3", f"DELETE /{STACK}-assets"),
    ),
    (deleted(RUNTIME, "Queue"), deleted(FRONT, "TaskTable")),
    (ClusterCall("DELETE", "/namespaces/keda/deployments/"), deleted(NETWORK, "PrivateSubnetA")),
)


# What nodes leave in a network can be in the way of these: a teardown frees it, and tries once more.
TRIED_AGAIN = (deleted(CLUSTER, "SystemNodes"), deleted(NETWORK, "PrivateSubnetA"))


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
        case "failed" if mishap.place in TRIED_AGAIN:
            well(ran)
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
        told(mishap, strike(world, words, mishap))


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


def everywhere(kind: Kind, places: Sequence[Place]) -> list[Mishap]:
    return [mishap for place in places if (mishap := Mishap(kind, place)).can_happen]


def calls(ways: Sequence[Sequence[Place]]) -> list[Place]:
    return [place for way in ways for place in way if isinstance(place, AwsCall)]


def survive(world: World, words: tuple[str, ...], mishaps: Sequence[Mishap]) -> None:
    well(strike(world, words, *mishaps))
    assert [str(one) for one in mishaps if not one.has_happened] == []


@pytest.mark.slow
def test_a_deploy_and_its_teardown_get_there_after_a_mishap_of_each_kind(world: World) -> None:
    _, prepared, network, _, cluster, _, karpenter = DEPLOY_WAYS[0]
    go_through(world, DEPLOY, [
        Mishap("killed", prepared), Mishap("interrupted", network), Mishap("failed", cluster),
        Mishap("denied", karpenter),
    ])  # fmt: skip
    well(world.run(*DEPLOY))
    is_deployed(world)
    bring_up_nodes(world)
    scale_in, pools, _, release, _, _, network, _ = DESTROY_WAYS[0]
    go_through(world, DESTROY, [
        Mishap("interrupted", scale_in), Mishap("killed", pools), Mishap("denied", release),
        Mishap("expired", network),
    ])  # fmt: skip
    well(world.run(*DESTROY))
    is_gone(world)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", [0, 1, 2])
@pytest.mark.parametrize("kind", ["expired", "denied", "interrupted", "killed", "failed"])
def test_a_mishap_of_each_kind_at_every_step_is_no_end(world: World, kind: Kind, way: int) -> None:
    go_through(world, DEPLOY, everywhere(kind, DEPLOY_WAYS[way]))
    well(world.run(*DEPLOY))
    is_deployed(world)
    bring_up_nodes(world)
    go_through(world, DESTROY, everywhere(kind, DESTROY_WAYS[way]))
    well(world.run(*DESTROY))
    is_gone(world)


@pytest.mark.full
@pytest.mark.parametrize("kind", sorted(SURVIVED))
def test_throttling_and_lost_connections_everywhere_are_got_over_in_one_run(world: World, kind: Kind) -> None:
    survive(world, DEPLOY, everywhere(kind, calls(DEPLOY_WAYS)))
    is_deployed(world)
    survive(world, DESTROY, everywhere(kind, calls(DESTROY_WAYS)))
    is_gone(world)
