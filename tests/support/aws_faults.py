"""Faults of stacks' resources: a resource takes long, or fails."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

Properties = dict[str, Any]


@dataclass(slots=True)
class ResourceFault:
    """What happens to a resource of a stack: it takes long, or fails.

    `operation` is `create`, `update` or `delete`; empty fields fit anything. `times` counts down; a
    `reason` makes it fail.
    """

    stack: str = ""
    resource: str = ""
    operation: str = ""
    reason: str = ""
    delay_seconds: float = 0.0
    times: int = 1

    def fits(self, operation: str, stack: str, resource: str) -> bool:
        return (
            self.times > 0
            and self.operation in ("", operation)
            and self.stack in ("", stack)
            and self.resource in ("", resource)
        )


FAULTS: list[ResourceFault] = []


def inject_faults() -> None:
    """Let `FAULTS` act on whatever a stack does; in the emulator's own process only."""
    from ministack.services.cloudformation import stacks

    originals = stacks._provision_resource, stacks._update_resource, stacks._delete_resource
    on_thread = stacks._runs_on_worker_thread

    def provision(resource_type: str, logical_id: str, properties: Properties, stack: str) -> Any:
        _suffer("create", stack, logical_id)
        return originals[0](resource_type, logical_id, properties, stack)

    def update(
        resource_type: str, physical_id: str, old: Properties, new: Properties, stack: str,
        logical_id: str = "", *rest: Any,
    ) -> Any:  # fmt: skip
        if old != new:
            _suffer("update", stack, logical_id)
        return originals[1](resource_type, physical_id, old, new, stack, logical_id, *rest)

    def delete(
        resource_type: str, physical_id: str, properties: Properties, stack: str = "", logical_id: str = ""
    ) -> None:
        _suffer("delete", stack, logical_id)
        originals[2](resource_type, physical_id, properties, stack, logical_id)

    def runs_on_worker_thread(resource_type: str) -> bool:
        return any(one.delay_seconds and one.times for one in FAULTS) or on_thread(resource_type)

    stacks._provision_resource, stacks._update_resource, stacks._delete_resource = provision, update, delete
    stacks._runs_on_worker_thread = runs_on_worker_thread


def _suffer(operation: str, stack: str, resource: str) -> None:
    for fault in FAULTS:
        if fault.fits(operation, stack, resource):
            fault.times -= 1
            time.sleep(fault.delay_seconds)
            if fault.reason:
                raise ValueError(fault.reason)
