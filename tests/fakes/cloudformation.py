"""A CloudFormation that does what a test scripts: for states that an emulator never gets into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sdctl.clients.cloudformation import StackEvent, StackView

START = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int, resource: str, status: str, reason: str = "") -> StackEvent:
    """Make an event at `number` seconds; a resource that is no stack is a queue."""
    kind = "AWS::CloudFormation::Stack" if resource.endswith("Stack") else "AWS::SQS::Queue"
    return StackEvent(str(number), START + timedelta(seconds=number), resource, kind, status, reason)


@dataclass
class FakeCloudFormation:
    """Goes through `statuses` (the last one stays; None is a stack that is gone) and keeps the calls."""

    statuses: list[str | None]
    events: list[StackEvent] = field(default_factory=list)
    change_set: tuple[str, str] = ("CREATE_COMPLETE", "")
    old_events: int = 0
    is_protected: bool = False
    calls: list[str] = field(default_factory=list)

    def find(self, name: str) -> StackView | None:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return (
            StackView(name, name, status, outputs={"Out": "put"}, is_protected=self.is_protected)
            if status
            else None
        )

    def create_change_set(
        self, name: str, change_set: str, *, is_new: bool, template: Mapping[str, str],
        parameters: Mapping[str, str], tags: Mapping[str, str],
    ) -> str:  # fmt: skip
        self.calls.append(f"create_change_set {'new' if is_new else 'update'} {next(iter(template))}")
        return change_set

    def change_set_status(self, name: str, arn: str) -> tuple[str, str]:
        return self.change_set

    def delete_change_set(self, name: str, arn: str) -> None:
        self.calls.append("delete_change_set")

    def execute_change_set(self, name: str, arn: str) -> datetime:
        self.calls.append("execute_change_set")
        return START

    def continue_rollback(self, name: str) -> datetime:
        self.calls.append("continue_rollback")
        return START

    def delete(self, name: str) -> datetime:
        self.calls.append("delete")
        return START

    def protect(self, name: str) -> None:
        self.calls.append("protect")

    def unprotect(self, name: str) -> None:
        self.calls.append("unprotect")

    def last_events(self, stack_id: str) -> tuple[set[str], datetime | None]:
        old = self.events[: self.old_events]
        return {item.id for item in old}, max((item.at for item in old), default=None)

    def events_since(self, stack_id: str, since: datetime) -> list[StackEvent]:
        return [item for item in self.events if item.at >= since]
