"""How long a plan is expected to take: minutes of each stack and release, and the critical path; pure.

Estimates, rounded from what public runs of the same resources show; nothing depends on them but words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from sdctl.deploy.steps import Plan

# Of one resource, in seconds; what is not listed takes a few.
# https://docs.aws.amazon.com/eks/latest/userguide/create-cluster.html: "several minutes"
_CREATE_SECONDS: Final[Mapping[str, int]] = {
    "AWS::EKS::Cluster": 540,
    "AWS::EKS::Nodegroup": 150,
    "AWS::EKS::Addon": 45,
    "AWS::EKS::AccessEntry": 10,
    "AWS::EKS::PodIdentityAssociation": 10,
    "AWS::EC2::NatGateway": 110,
    "AWS::EC2::VPCEndpoint": 60,
    "AWS::EC2::EIP": 15,
    "AWS::EC2::InternetGateway": 15,
    "AWS::EC2::VPC": 12,
    "AWS::IAM::Role": 18,
    "AWS::DynamoDB::Table": 30,
    "AWS::Lambda::EventSourceMapping": 40,
    "AWS::Events::Rule": 60,
    "AWS::CloudFormation::Stack": 120,
}  # fmt: skip
_OTHER_SECONDS: Final = 6
# The change set, and what CloudFormation does around the resources.
_STACK_SECONDS: Final = 15
# Karpenter, KEDA: images, leader election, readiness. A runtime's first pod starts when a task comes.
RELEASE_MINUTES: Final = 1.0


def stack_minutes(template: Mapping[str, Any], changed: Collection[str] | None = None) -> float:
    """Estimate a stack: the longest chain of resources that wait for each other.

    Args:
        template: its document.
        changed: the logical ids that an update touches; all of them, unless given.
    """
    resources: Mapping[str, Mapping[str, Any]] = template.get("Resources", {})
    ends: dict[str, int] = {}

    def end(name: str) -> int:
        if name not in ends:
            ends[name] = 0  # a circle is AWS's to refuse
            body = resources[name]
            own = _CREATE_SECONDS.get(str(body.get("Type")), _OTHER_SECONDS)
            before = max((end(other) for other in _references(body, resources)), default=0)
            ends[name] = before + (own if changed is None or name in changed else 0)
        return ends[name]

    return (_STACK_SECONDS + max(map(end, resources), default=0)) / 60


def _references(value: Any, resources: Collection[str]) -> set[str]:
    """Name the resources that a part of a template waits for."""
    if isinstance(value, str):
        # In `Fn::Sub`, `Ref` and `DependsOn` alike; a name that stands in other text is no great loss.
        pieces = {value} | {piece.partition("}")[0].partition(".")[0] for piece in value.split("${")[1:]}
        return {piece.partition(".")[0] for piece in pieces if piece.partition(".")[0] in resources}
    if isinstance(value, Mapping):
        return set().union(*(_references(one, resources) for key, one in value.items() if key != "Type"))
    if isinstance(value, list):
        return set().union(*(_references(one, resources) for one in value))
    return set()


def critical_path(plan: Plan) -> tuple[tuple[str, ...], float]:
    """Return the chain of steps that decides how long a plan takes, first to last, and its minutes."""
    chains: dict[str, tuple[tuple[str, ...], float]] = {}
    for step in plan:
        before = max((chains[need] for need in step.needs if need in chains), key=_minutes, default=((), 0.0))
        is_work = step.action != "none"
        chains[step.id] = (
            before[0] + ((step.id,) if is_work else ()),
            before[1] + (step.minutes if is_work else 0.0),
        )
    return max(chains.values(), key=_minutes, default=((), 0.0))


def _minutes(chain: tuple[tuple[str, ...], float]) -> float:
    return chain[1]
