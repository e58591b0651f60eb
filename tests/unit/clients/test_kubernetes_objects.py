"""What is read from Kubernetes objects, whole ones and such as have hardly begun."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl.clients import kubernetes_objects as objects

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "status", "spec", "labels", "name", "conditions", "state", "waiting", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def deployment(**status: int) -> dict[str, Any]:
    return {
        "metadata": {"name": "rt", "namespace": "farm", "generation": 3},
        "spec": {"replicas": 2},
        "status": status,
    }


SETTLED = {
    "observedGeneration": 3,
    "replicas": 2,
    "updatedReplicas": 2,
    "readyReplicas": 2,
    "availableReplicas": 2,
}


def test_a_deployment_is_settled_when_all_replicas_are_of_its_last_change() -> None:
    found = objects.read_workload(deployment(**SETTLED))
    assert found == objects.Workload("rt", "farm", wanted=2, ready=2, is_settled=True)


@pytest.mark.parametrize(
    "lacking", [{"observedGeneration": 2}, {"updatedReplicas": 1}, {"availableReplicas": 1}, {"replicas": 3}]
)
def test_a_deployment_is_not_settled_before(lacking: dict[str, int]) -> None:
    assert not objects.read_workload(deployment(**SETTLED | lacking)).is_settled


def test_a_deployment_without_replicas_is_settled_too() -> None:
    found = {"metadata": {"generation": 1}, "spec": {"replicas": 0}, "status": {"observedGeneration": 1}}
    assert objects.read_workload(found) == objects.Workload("", "", wanted=0, ready=0, is_settled=True)


@pytest.mark.parametrize(
    ("annotations", "is_paused"),
    [
        ({"autoscaling.keda.sh/paused-replicas": "0"}, True),
        ({"autoscaling.keda.sh/paused": "true"}, True),
        ({"autoscaling.keda.sh/paused": "false"}, False),
        ({}, False),
    ],
)
def test_a_scaled_object_is_paused_by_either_annotation(annotations: dict[str, str], is_paused: bool) -> None:
    found = objects.read_scaling({"metadata": {"annotations": annotations}, "spec": {}})
    assert (found.is_paused, found.minimum, found.maximum) == (is_paused, 0, 100)


def pod(**status: Any) -> objects.Pod:
    return objects.read_pod({"metadata": {"name": "p"}, "status": {"phase": "Pending", **status}})


def waiting(reason: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "runtime", "state": {"waiting": {"reason": reason, "message": "why"}}, **more}]


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({}, ""),
        ({"containerStatuses": waiting("ContainerCreating")}, ""),
        ({"containerStatuses": waiting("ImagePullBackOff")}, "runtime: ImagePullBackOff (why)"),
        ({"initContainerStatuses": waiting("ErrImagePull")}, "runtime: ErrImagePull (why)"),
        (
            {"containerStatuses": waiting(
                "CrashLoopBackOff", lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}})},
            "runtime: CrashLoopBackOff (OOMKilled, exit code 137)",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes"}]},
            "no node takes it (0/2 nodes)",
        ),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "Evicted (low on memory)"),
    ],
)  # fmt: skip
def test_a_pod_says_why_it_does_not_run(status: dict[str, Any], problem: str) -> None:
    assert pod(**status).problem == problem


def test_times_are_read_with_and_without_fractions() -> None:
    expected = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
    assert objects.moment("2026-11-22T10:00:00Z") == expected
    assert objects.moment("2026-11-22T10:00:00.000000Z") == expected
    assert objects.moment("") is None


@given(JSON)
def test_no_shape_of_an_object_breaks_its_reading(found: Any) -> None:
    given_object = found if isinstance(found, dict) else {}
    for read in (
        objects.read_node, objects.read_workload, objects.read_scaling, objects.read_claim, objects.read_pod,
    ):  # fmt: skip
        read(given_object)
