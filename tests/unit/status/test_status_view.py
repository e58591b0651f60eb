"""The document of `status`: what is known, and what is not and why."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sdctl.clients.cloudformation import StackView
from sdctl.clients.kubernetes_objects import Claim, Node, Pod, Scaling, Workload
from sdctl.clients.queue_depth import Depth
from sdctl.clients.tagging import Found
from sdctl.prices import EKS_CLUSTER, VOLUME, Price
from sdctl.reads import Unknown
from sdctl.status.facts import ClusterFacts, Facts
from sdctl.status.view import document, stack_rows, waits_for

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BORN = datetime(2026, 11, 22, 11, tzinfo=UTC)
NODE = Node("n-1", "g5.2xlarge", "us-west-2a", "spot", "sd", BORN, True, "v1.36.1", "i-1")
SYSTEM = Node("n-0", "m7g.large", "us-west-2b", "", "", BORN, True, "v1.36.1", "i-0")
CLUSTER = ClusterFacts(
    "1.36",
    workloads={"sd": Workload("sd", "ns", wanted=3, ready=1, is_settled=False)},
    scalings={"sd": Scaling("sd", "ns", "sd", minimum=0, maximum=5, is_paused=True)},
    pods={
        "sd": (
            Pod("sd-1", "ns", "n-1", "Running", True, ""),
            Pod("sd-2", "ns", "", "Pending", False, ""),
            Pod("sd-3", "ns", "n-1", "Pending", False, "models: CrashLoopBackOff (Error, exit code 1)"),
        )
    },
    nodes=(SYSTEM, NODE),
    claims=(
        Claim("sd-abc", "sd", "i-1", is_ready=True, is_ending=False),
        Claim("sd-def", "sd", "", is_ready=False, is_ending=False),
    ),
)
FACTS = Facts(
    "farm",
    "us-west-2",
    stacks={
        "farmStack": StackView("farmStack", "1", "UPDATE_ROLLBACK_COMPLETE", reason="it failed"),
        "farm-cluster": StackView("farm-cluster", "2", "CREATE_COMPLETE", reason="fine"),
    },
    runtimes={"sd": "sdwebui"},
    has_cluster=True,
    cluster=CLUSTER,
    releases={"karpenter": "1.14.1", "keda": "2.20.2", "other": "1"},
    queues={"sd": Depth(4, 1)},
    dead_letters={"sd": Depth(2, 0)},
    oldest_seconds={"sd": 61.0},
    unrouted=Depth(0, 0),
    machines=(
        Found("ec2:instance", "i-1", "g5.2xlarge", spot_zone="us-west-2a"),
        Found("ec2:instance", "i-2", "g5.2xlarge", spot_zone="us-west-2a"),
        Found("ec2:volume", "vol-1", VOLUME, 100.0),
        Found("eks:cluster", "farm", EKS_CLUSTER),
        Found("ec2:vpc-endpoint", "vpce-1"),
    ),
    prices={
        ("g5.2xlarge", "us-west-2a"): Price(0.5, "USD", source="spot price now"),
        (EKS_CLUSTER, ""): Price(0.1, "USD"),
    },
)


def shown(**changes: Any) -> dict[str, Any]:
    found = document(replace(FACTS, **changes), NOW)
    json.dumps(found)
    return found


def test_a_runtime_shows_its_replicas_its_bounds_and_what_it_waits_for() -> None:
    assert shown()["runtimes"] == [
        {
            "name": "sd", "type": "sdwebui", "namespace": "ns", "desired": 3, "ready": 1, "minimum": 0,
            "maximum": 5, "paused": True,
            "waits_for": "1 × a node; 1 × models: CrashLoopBackOff (Error, exit code 1)",
        }
    ]  # fmt: skip


def test_the_commonest_reason_stands_first_and_what_is_ready_waits_for_nothing() -> None:
    pod = Pod("p", "ns", "n", "Pending", False, "")
    assert waits_for((pod, replace(pod, node=""), replace(pod, node=""))) == "2 × a node; 1 × its start"
    assert waits_for((replace(pod, is_ready=True),)) is None


def test_gpu_nodes_stand_before_others_and_those_that_are_being_started_behind() -> None:
    nodes = shown()["nodes"]
    assert [(one["name"], one["pool"], one["ready"]) for one in nodes] == [
        ("n-1", "sd", True), ("n-0", None, True), ("sd-def", "sd", False),
    ]  # fmt: skip
    assert nodes[0] == {
        "name": "n-1", "type": "g5.2xlarge", "zone": "us-west-2a", "capacity": "spot", "pool": "sd",
        "ready": True, "age_seconds": 3600, "instance": "i-1",
    }  # fmt: skip


def test_a_queue_shows_what_waits_how_long_and_what_was_given_up() -> None:
    assert shown()["queues"] == [
        {"runtime": "sd", "type": "sdwebui", "waiting": 4, "running": 1, "oldest_seconds": 61.0,
         "dead_letters": 2}
    ]  # fmt: skip
    assert shown()["unrouted"] == 0


def test_the_cost_is_what_has_a_price_and_the_rest_is_named() -> None:
    cost = shown()["cost"]
    assert (cost["hourly"], cost["currency"], cost["unknown"]) == (1.1, "USD", [VOLUME])
    spot = next(one for one in cost["charges"] if one["what"].startswith("g5"))
    assert spot == {
        "what": "g5.2xlarge on spot in us-west-2a", "quantity": 2.0, "hourly": 1.0,
        "source": "spot price now",
    }  # fmt: skip


def test_versions_are_of_what_goes_together() -> None:
    versions = shown()["versions"]
    assert versions.keys() == {"sdctl", "kubernetes", "karpenter", "keda"}
    assert (versions["kubernetes"], versions["karpenter"], versions["keda"]) == ("1.36", "1.14.1", "2.20.2")


def test_a_cluster_that_does_not_answer_hides_nothing_else() -> None:
    silent = Unknown("no answer")
    found = shown(cluster=silent, releases=silent)
    assert found["nodes"] is None
    assert (found["runtimes"][0]["name"], found["runtimes"][0]["ready"]) == ("sd", None)
    assert found["queues"][0]["waiting"] == 4
    assert found["problems"] == [
        {"part": "cluster", "reason": "no answer"}, {"part": "releases", "reason": "no answer"},
    ]  # fmt: skip


def test_everything_unknown_is_still_a_document() -> None:
    nothing = Unknown("denied")
    found = shown(
        cluster=nothing, releases=nothing, runtimes=nothing, queues={"sd": nothing},
        dead_letters={"sd": nothing}, oldest_seconds=nothing, unrouted=nothing, machines=nothing,
        prices=nothing,
    )  # fmt: skip
    assert (found["stack"], found["cost"], found["unrouted"]) == ("UPDATE_ROLLBACK_COMPLETE", None, None)
    assert found["queues"] == [
        {"runtime": "sd", "type": None, "waiting": None, "running": None, "oldest_seconds": None,
         "dead_letters": None}
    ]  # fmt: skip
    assert {one["part"] for one in found["problems"]} == {
        "cluster", "releases", "runtimes", "queue of sd", "dead-letter queue of sd", "oldest message",
        "unrouted", "machines", "prices",
    }  # fmt: skip


def test_a_deployment_without_a_cluster_lacks_none() -> None:
    found = shown(has_cluster=False, cluster=Unknown("none"), releases=Unknown("none"))
    assert found["problems"] == []


def test_reasons_are_shown_of_stacks_that_are_not_well() -> None:
    assert [(one["name"], one["reason"]) for one in stack_rows(shown())] == [
        ("farm-cluster", None), ("farmStack", "it failed"),
    ]  # fmt: skip
