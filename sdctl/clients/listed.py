"""What the list of tags says is there, held against EC2 and CloudFormation: the list is late to forget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import NotFoundError

# CloudFormation's own tags of what its stacks make:
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-properties-resource-tags.html
_STACK_ID_TAG: Final = "aws:cloudformation:stack-id"
_LOGICAL_ID_TAG: Final = "aws:cloudformation:logical-id"
_GONE: Final = "DELETE_COMPLETE"
# What costs for being there is asked for by itself.
_DESCRIBED: Final = frozenset({"dynamodb:table", "eks:cluster"})
# The values of one filter: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeTags.html
_BATCH: Final = 200


class Presence(Enum):
    """What is known of a resource that has, or had, a tag."""

    THERE = "there"
    GONE = "gone"
    LISTED = "listed"  # and nothing else is known


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of the list of tags: `type` as `ec2:vpc`, and all of its tags."""

    type: str
    id: str
    tags: Mapping[str, str] = field(default_factory=dict)


def presences(aws: Aws, listed: Sequence[Listed]) -> dict[tuple[str, str], Presence]:
    """Find out which of the resources are there, by (type, id).

    EC2 tells by its own tags, of the moment; a stack by the states of its resources, also when it is deleted.
    What costs for being there is asked for by itself.
    """
    machines = _tagged_in_ec2(aws, [one.id for one in listed if one.type.startswith("ec2:")])
    stacks = {one.tags[_STACK_ID_TAG] for one in listed if _STACK_ID_TAG in one.tags}
    states = {stack: _resource_states(aws, stack) for stack in stacks}
    found = {}
    for one in listed:
        state = states.get(one.tags.get(_STACK_ID_TAG, ""), {}).get(one.tags.get(_LOGICAL_ID_TAG, ""))
        if one.type.startswith("ec2:"):
            presence = Presence.THERE if one.id in machines else Presence.GONE
        elif one.type in _DESCRIBED:
            presence = Presence.THERE if _is_described(aws, one) else Presence.GONE
        elif state is None:
            presence = Presence.LISTED
        else:
            presence = Presence.GONE if state == _GONE else Presence.THERE
        found[one.type, one.id] = presence
    return found


def _is_described(aws: Aws, one: Listed) -> bool:
    try:
        with aws_errors(f"look for {one.id}"):
            if one.type == "eks:cluster":
                aws.client("eks").describe_cluster(name=one.id)
            else:
                aws.client("dynamodb").describe_table(TableName=one.id)
    except NotFoundError:
        return False
    return True


def _tagged_in_ec2(aws: Aws, ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(ids), _BATCH):
        wanted = [{"Name": "resource-id", "Values": list(ids[start : start + _BATCH])}]
        with aws_errors("read the tags of what EC2 has"):
            for page in aws.client("ec2").get_paginator("describe_tags").paginate(Filters=wanted):
                found |= {str(tag["ResourceId"]) for tag in page["Tags"]}
    return found


def _resource_states(aws: Aws, stack_id: str) -> dict[str, str]:
    """Return the states of a stack's resources by logical id; none where AWS has forgotten the stack."""
    try:
        with aws_errors("read the resources of a stack"):
            pages = aws.client("cloudformation").get_paginator("list_stack_resources")
            return {
                str(one["LogicalResourceId"]): str(one["ResourceStatus"])
                for page in pages.paginate(StackName=stack_id)
                for one in page["StackResourceSummaries"]
            }
    except NotFoundError:
        return {}
