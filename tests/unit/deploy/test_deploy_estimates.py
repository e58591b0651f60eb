"""Expected minutes: the longest chain decides, in a stack and in a plan."""

from __future__ import annotations

from typing import Any

import pytest

from sdctl.deploy.display import in_words, summary
from sdctl.deploy.estimates import critical_path, stack_minutes
from sdctl.deploy.steps import Action, Plan, Step


def chain(**resources: dict[str, Any]) -> dict[str, Any]:
    return {"Resources": resources}


def step(step_id: str, minutes: float, *needs: str, action: Action = "create") -> Step:
    return Step(id=step_id, action=action, needs=needs, minutes=minutes)


CLUSTER: dict[str, Any] = {"Type": "AWS::EKS::Cluster"}
QUEUE: dict[str, Any] = {"Type": "AWS::SQS::Queue"}


@pytest.mark.parametrize(
    "reference",
    [
        {"DependsOn": "Cluster"},
        {"DependsOn": ["Other", "Cluster"]},
        {"Properties": {"A": [{"Ref": "Cluster"}]}},
        {"Properties": {"A": {"Fn::GetAtt": ["Cluster", "Arn"]}}},
        {"Properties": {"A": {"Fn::GetAtt": "Cluster.Arn"}}},
        {"Properties": {"A": {"Fn::Sub": "x-${Cluster.Arn}"}}},
    ],
)
def test_a_resource_waits_for_what_it_refers_to(reference: dict[str, Any]) -> None:
    addon = {"Type": "AWS::EKS::Addon", **reference}
    alone = stack_minutes(chain(Cluster=CLUSTER, Other=QUEUE))
    assert stack_minutes(chain(Cluster=CLUSTER, Other=QUEUE, Addon=addon)) == pytest.approx(alone + 45 / 60)


def test_resources_beside_each_other_take_as_long_as_the_longest() -> None:
    many = {f"Queue{number}": QUEUE for number in range(20)}
    assert stack_minutes(chain(Cluster=CLUSTER, **many)) == stack_minutes(chain(Cluster=CLUSTER))


def test_an_update_takes_as_long_as_what_it_touches() -> None:
    template = chain(Cluster=CLUSTER, Queue=QUEUE | {"DependsOn": "Cluster"})
    assert stack_minutes(template, {"Queue"}) < 1 < stack_minutes(template)


def test_a_circle_is_no_endless_loop() -> None:
    assert stack_minutes(chain(A=QUEUE | {"DependsOn": "B"}, B=QUEUE | {"DependsOn": "A"})) < 1


def test_the_critical_path_goes_through_what_changes() -> None:
    plan = Plan((
        step("network", 3), step("cluster", 14, "network"), step("front", 2),
        step("old", 90, "cluster", action="none"), step("runtime", 1, "front", "cluster", "old"),
    ))  # fmt: skip
    assert critical_path(plan) == (("network", "cluster", "runtime"), 18)
    assert summary(plan) == "4 to create; about 18 min, decided by network → cluster → runtime."
    assert critical_path(Plan(())) == ((), 0)
    assert summary(Plan(())) == "Nothing to change: everything is as it is to be."
    assert in_words(0.4) == "less than a minute"
