"""The calls that commands made in `aws_world`, against the policies that sdctl prints for them."""

from __future__ import annotations

import json
from typing import Any

from sdctl.iam.calls import CALLS, Purpose
from support.aws_world import ACCOUNT, REGION, STACK, World
from support.iam_evaluator import allows, requests_of
from support.iam_requests import Caller

# What the resources of the deployment are tagged with, by whoever made them.
_TAGS = {
    "aws:ResourceTag/sdctl:stack": (STACK,),
    f"aws:ResourceTag/kubernetes.io/cluster/{STACK}": ("owned",),
    "aws:ResourceTag/karpenter.k8s.aws/cluster": (STACK,),
    "aws:ResourceTag/cluster.k8s.amazonaws.com/name": (STACK,),
}
Call = tuple[str, str, dict[str, Any]]


def made(world: World, command: str) -> list[Call]:
    """Return the calls of a command, each as service, operation and parameters."""
    return [tuple(json.loads(line)) for line in world.calls_file(command).read_text().splitlines()]


def unlisted(purpose: Purpose, calls: list[Call]) -> set[tuple[str, str]]:
    """Return which calls the table of a purpose lacks."""
    return {(service, operation) for service, operation, _ in calls} - {
        (one.service, one.operation) for one in CALLS[purpose]
    }


def denied(world: World, purpose: Purpose, calls: list[Call]) -> set[str]:
    """Return what the policy of the world's own configuration does not allow."""
    printed = world.run("iam", "policy", "--for", purpose, "--account", ACCOUNT, "-R", REGION, "-o", "json")
    caller = Caller("aws", REGION, ACCOUNT)
    return {
        f"{request.action} on {request.resource}"
        for call in calls
        for request in requests_of(caller, *call, **_TAGS)
        if not allows(printed.document, request)
    }
