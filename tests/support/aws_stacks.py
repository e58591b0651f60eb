"""Applies rendered stacks to the emulator as CloudFormation is used: through change sets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sdctl.render.stacks import Output, Stack

_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Applied:
    """How a stack came out: its outputs, and the resources whose replacement the change set announced."""

    status: str
    outputs: dict[str, str]
    replaced: tuple[str, ...]
    failures: dict[str, str]


class Stacks:
    """The stacks of one account; outputs of those that were applied resolve parameters of later ones."""

    def __init__(self, cloudformation: Any) -> None:
        self._client = cloudformation
        self.outputs: dict[str, dict[str, str]] = {}

    def apply(self, stack: Stack, **parameters: str) -> Applied:
        """Create the stack or change it, and wait."""
        given = {
            name: self.outputs[value.stack][value.name] if isinstance(value, Output) else value
            for name, value in (stack.parameters | parameters).items()
        }
        is_new = self.status(stack.name) == ""
        change_set = self._client.create_change_set(
            StackName=stack.name, ChangeSetName=f"c{time.monotonic_ns()}",
            ChangeSetType="CREATE" if is_new else "UPDATE", TemplateBody=stack.template.body,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            Tags=[{"Key": key, "Value": value} for key, value in stack.tags.items()],
            Capabilities=["CAPABILITY_IAM"],
        )["Id"]  # fmt: skip
        found = self._client.describe_change_set(ChangeSetName=change_set)
        if found["Status"] == "FAILED":
            return Applied(found["StatusReason"], {}, (), {})
        changes = [one["ResourceChange"] for one in found["Changes"]]
        self._client.execute_change_set(ChangeSetName=change_set)
        status = self._wait(stack.name)
        described = self._client.describe_stacks(StackName=stack.name)["Stacks"][0]
        outputs = {one["OutputKey"]: one["OutputValue"] for one in described.get("Outputs", ())}
        self.outputs[stack.name] = outputs
        replaced = tuple(one["LogicalResourceId"] for one in changes if one.get("Replacement") == "True")
        return Applied(status, outputs, replaced, dict(self._failures(stack.name)))

    def delete(self, name: str) -> str:
        """Delete a stack and return how it ended; empty where it is gone."""
        self._client.delete_stack(StackName=name)
        return self._wait(name)

    def status(self, name: str) -> str:
        """Return a stack's state; empty where there is none."""
        return self._all().get(name, "")

    def _all(self) -> dict[str, str]:
        pages: list[Mapping[str, Any]] = self._client.get_paginator("describe_stacks").paginate()
        return {one["StackName"]: one["StackStatus"] for page in pages for one in page["Stacks"]}

    def _wait(self, name: str) -> str:
        deadline = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < deadline:
            status = self.status(name)
            if not status.endswith("_IN_PROGRESS"):
                return status
            time.sleep(0.02)
        raise AssertionError(f"{name} is still {status}")

    def _failures(self, name: str) -> Iterator[tuple[str, str]]:
        for event in self._client.describe_stack_events(StackName=name)["StackEvents"]:
            if event["ResourceStatus"].endswith("_FAILED"):
                yield event["LogicalResourceId"], event.get("ResourceStatusReason", "")
