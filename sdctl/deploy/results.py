"""What a deployment gave back, read from its stacks: on any machine, without its record or configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sdctl.clients.aws import Aws
from sdctl.clients.cloudformation import StackState, StackView
from sdctl.clients.ssm import Ssm
from sdctl.deploy.outputs import joined_outputs
from sdctl.deploy.standing import own_stacks
from sdctl.errors import NotFoundError
from sdctl.render.stacks import runtimes_path


def read_runtimes(aws: Aws, stack_name: str) -> dict[str, str]:
    """Return the runtimes that the API takes tasks for, by name, with their types."""
    found: dict[str, str] = {}
    for text in Ssm(aws).below(runtimes_path(stack_name)).values():
        entry: dict[str, Any] = json.loads(text)
        found[str(entry["name"])] = str(entry["type"])
    return dict(sorted(found.items()))


def read_checkpoints(aws: Aws, stack_name: str) -> dict[str, list[str]]:
    """Return the checkpoints that each deployed runtime names, by the runtime's name."""
    entries = (json.loads(text) for text in Ssm(aws).below(runtimes_path(stack_name)).values())
    return {str(one["name"]): [str(name) for name in one.get("checkpoints", ())] for one in entries}


def front_of(stack_name: str, region: str, stacks: Mapping[str, StackView]) -> StackView:
    """Return the front's stack.

    Raises:
        NotFoundError: there is none in this region.
    """
    front = stacks.get(f"{stack_name}Stack")
    if front is None or front.state is StackState.ABSENT:
        raise NotFoundError(
            f"there is no deployment {stack_name} in {region}", hint="check -n, -R and --profile"
        )
    return front


def read_results(aws: Aws, stack_name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Read a deployment's outputs and its runtimes.

    Raises:
        NotFoundError: there is no such deployment in this region.
    """
    stacks = own_stacks(aws, stack_name)
    front_of(stack_name, aws.region, stacks)
    outputs = {name: view.outputs for name, view in stacks.items()}
    return joined_outputs(stack_name, outputs), read_runtimes(aws, stack_name)
