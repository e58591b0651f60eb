"""CloudFormation: stacks, change sets and events, and what their states mean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import AwsError, ConflictError, NotFoundError

# A template longer than this must come from S3:
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
MAX_INLINE_TEMPLATE_BYTES: Final = 51_200
# A change set without changes fails; AWS says so in a text alone.
_NO_CHANGE_TEXTS: Final = ("didn't contain changes", "No updates are to be performed")
# A change set that is being carried out, or was, under the code InvalidChangeSetStatus.
_UNDER_WAY_TEXT: Final = "EXECUTE_"
# A stack that another operation holds, under the code ValidationError.
_BUSY_TEXT: Final = "_IN_PROGRESS state"


class StackState(Enum):
    """What can be done with a stack."""

    ABSENT = "absent"  # to be created
    STABLE = "stable"  # to be updated
    BROKEN = "broken"  # to be deleted, then created
    STUCK = "stuck"  # an update's rollback is to be continued, then updated
    BUSY = "busy"  # another operation is in progress


# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html#cfn-console-view-stack-data-resources-status-codes
_STATES: Final = {
    "REVIEW_IN_PROGRESS": StackState.ABSENT, "DELETE_COMPLETE": StackState.ABSENT,
    "CREATE_COMPLETE": StackState.STABLE, "UPDATE_COMPLETE": StackState.STABLE,
    "UPDATE_ROLLBACK_COMPLETE": StackState.STABLE, "IMPORT_COMPLETE": StackState.STABLE,
    "IMPORT_ROLLBACK_COMPLETE": StackState.STABLE,
    "CREATE_FAILED": StackState.BROKEN, "ROLLBACK_COMPLETE": StackState.BROKEN,
    "ROLLBACK_FAILED": StackState.BROKEN, "DELETE_FAILED": StackState.BROKEN,
    "UPDATE_ROLLBACK_FAILED": StackState.STUCK, "UPDATE_FAILED": StackState.STUCK,
    "IMPORT_ROLLBACK_FAILED": StackState.STUCK,
}  # fmt: skip


def classify(status: str) -> StackState:
    """Map a stack's status to what can be done with it.

    Raises:
        AwsError: AWS has a status that we do not know.
    """
    if status in _STATES:
        return _STATES[status]
    if status.endswith("_IN_PROGRESS"):
        return StackState.BUSY
    raise AwsError(f"the stack status {status} is unknown to this version of sdctl")


@dataclass(frozen=True, slots=True)
class StackView:
    """A stack as AWS has it; `changed_at` is when its creation or its last update began, in ISO 8601."""

    name: str
    id: str
    status: str
    reason: str = ""
    changed_at: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    is_protected: bool = False

    @property
    def state(self) -> StackState:
        """What can be done with it."""
        return classify(self.status)


@dataclass(frozen=True, slots=True)
class StackEvent:
    """One line of a stack's history."""

    id: str
    at: datetime
    resource: str
    type: str
    status: str
    reason: str = ""
    physical_id: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether this resource failed by itself, not because another one did."""
        return self.status.endswith("_FAILED") and "cancelled" not in self.reason.lower()


@dataclass(frozen=True, slots=True)
class ResourceChange:
    """What a change set would do to a resource.

    `action` is `add`, `modify`, `remove` or `import`; `replacement` of a modification is `true`, `false` or
    `conditional`, where AWS itself does not know yet.
    """

    resource: str
    type: str
    action: str
    replacement: str = ""

    @property
    def is_replacement(self) -> bool:
        """Whether the resource may be made anew, and the old one deleted."""
        return self.replacement in ("true", "conditional")


class CloudFormation:
    """The calls that a deploy makes, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    @property
    def _client(self) -> Any:
        return self._aws.client("cloudformation")

    def find(self, name: str) -> StackView | None:
        """Return a stack by its name or id, or None where there is none."""
        try:
            with aws_errors(f"read the stack {name}"):
                stack = self._client.describe_stacks(StackName=name)["Stacks"][0]
        except NotFoundError:
            return None
        return _view(stack)

    def all(self) -> Iterator[StackView]:
        """Yield every stack of the region that is not deleted."""
        with aws_errors("list the stacks"):
            for page in self._client.get_paginator("describe_stacks").paginate():
                yield from map(_view, page["Stacks"])

    def template(self, name: str) -> dict[str, Any]:
        """Return the template that a stack was last given."""
        with aws_errors(f"read the template of the stack {name}"):
            body = self._client.get_template(StackName=name, TemplateStage="Original")["TemplateBody"]
        # botocore parses a JSON body; one that is not ours may be YAML and differs anyway.
        if isinstance(body, str):
            return dict(json.loads(body)) if body.lstrip().startswith("{") else {}
        return dict(body)

    def create_change_set(
        self, name: str, change_set: str, *, is_new: bool, template: Mapping[str, str],
        parameters: Mapping[str, str], tags: Mapping[str, str],
    ) -> str:  # fmt: skip
        """Start a change set and return its ARN.

        Args:
            name: the stack's.
            change_set: its name, never used before: one that is there already is this one, made by a call
                whose answer got lost.
            is_new: there is no stack yet.
            template: `{"TemplateBody": …}` or `{"TemplateURL": …}`.
            parameters: of the stack.
            tags: of the stack.
        """
        try:
            with busy_is_conflict(name), aws_errors(f"prepare the changes of the stack {name}"):
                answer = self._client.create_change_set(
                    StackName=name,
                    ChangeSetName=change_set,
                    ChangeSetType="CREATE" if is_new else "UPDATE",
                    Parameters=[
                        {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
                    ],
                    Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
                    Capabilities=["CAPABILITY_IAM"],
                    **template,
                )
        except ConflictError as error:
            if f"ChangeSet [{change_set}] already exists" not in error.message:
                raise
            with aws_errors(f"read the changes of the stack {name}"):
                found = self._client.describe_change_set(StackName=name, ChangeSetName=change_set)
            return str(found["ChangeSetId"])
        return str(answer["Id"])

    def change_set_status(self, name: str, arn: str) -> tuple[str, str]:
        """Return status and reason of a change set."""
        with aws_errors(f"read the changes of the stack {name}"):
            answer = self._client.describe_change_set(StackName=name, ChangeSetName=arn)
        return str(answer["Status"]), str(answer.get("StatusReason") or "")

    def delete_change_set(self, name: str, arn: str) -> None:
        """Forget a change set."""
        with aws_errors(f"drop the changes of the stack {name}"):
            self._client.delete_change_set(StackName=name, ChangeSetName=arn)

    def execute_change_set(self, name: str, arn: str) -> datetime:
        """Start the changes and return AWS's own time of it."""
        try:
            with busy_is_conflict(name), aws_errors(f"change the stack {name}"):
                answer = self._client.execute_change_set(StackName=name, ChangeSetName=arn)
        except AwsError as error:
            # Under way already: the answer to the call before this retry got lost.
            if error.aws_code != "InvalidChangeSetStatus" or _UNDER_WAY_TEXT not in error.message:
                raise
            return response_time({})
        return response_time(answer)

    def changes(self, name: str, arn: str) -> list[ResourceChange]:
        """Return what a change set would change."""
        with aws_errors(f"read the changes of the stack {name}"):
            pages = self._client.get_paginator("describe_change_set").paginate(
                StackName=name, ChangeSetName=arn
            )
            found = [item["ResourceChange"] for page in pages for item in page.get("Changes", ())]
        return [
            ResourceChange(
                one["LogicalResourceId"], one["ResourceType"], str(one["Action"]).lower(),
                str(one.get("Replacement", "")).lower(),
            )
            for one in found
        ]  # fmt: skip

    def continue_rollback(self, name: str) -> datetime:
        """Continue the rollback of a failed update."""
        with busy_is_conflict(name), aws_errors(f"continue the rollback of the stack {name}"):
            answer = self._client.continue_update_rollback(StackName=name)
        return response_time(answer)

    def delete(self, name: str) -> datetime:
        """Start the deletion of a stack."""
        with busy_is_conflict(name), aws_errors(f"delete the stack {name}"):
            answer = self._client.delete_stack(StackName=name)
        return response_time(answer)

    def protect(self, name: str) -> None:
        """Keep a stack from being deleted by mistake."""
        with aws_errors(f"protect the stack {name}"):
            self._client.update_termination_protection(StackName=name, EnableTerminationProtection=True)

    def unprotect(self, name: str) -> None:
        """Let a stack be deleted that was protected from it."""
        with aws_errors(f"switch the protection of the stack {name} off"):
            self._client.update_termination_protection(StackName=name, EnableTerminationProtection=False)

    def last_events(self, stack_id: str) -> tuple[set[str], datetime | None]:
        """Return the ids of a stack's newest events, and the time of the last one by AWS's clock."""
        with aws_errors("read the stack's events"):
            page = self._client.describe_stack_events(StackName=stack_id)["StackEvents"]
        return {str(item["EventId"]) for item in page}, max(
            (item["Timestamp"] for item in page), default=None
        )

    def events_since(self, stack_id: str, since: datetime) -> list[StackEvent]:
        """Return the events of a stack from a time on, oldest first."""
        return list(reversed(list(self._events(stack_id, since))))

    def _events(self, stack_id: str, since: datetime) -> Iterator[StackEvent]:
        with aws_errors("read the stack's events"):
            for page in self._client.get_paginator("describe_stack_events").paginate(StackName=stack_id):
                for item in page["StackEvents"]:
                    if item["Timestamp"] < since:
                        return
                    yield StackEvent(
                        id=item["EventId"],
                        at=item["Timestamp"],
                        resource=item.get("LogicalResourceId", ""),
                        type=item.get("ResourceType", ""),
                        status=item.get("ResourceStatus", ""),
                        reason=item.get("ResourceStatusReason", ""),
                        physical_id=item.get("PhysicalResourceId", ""),
                    )


def _view(stack: Mapping[str, Any]) -> StackView:
    return StackView(
        name=stack["StackName"],
        id=stack["StackId"],
        status=stack["StackStatus"],
        reason=stack.get("StackStatusReason", ""),
        changed_at=(stack.get("LastUpdatedTime") or stack["CreationTime"]).isoformat(),
        outputs={item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", ())},
        parameters={item["ParameterKey"]: item["ParameterValue"] for item in stack.get("Parameters", ())},
        tags={item["Key"]: item["Value"] for item in stack.get("Tags", ())},
        is_protected=bool(stack.get("EnableTerminationProtection")),
    )


@contextmanager
def busy_is_conflict(name: str) -> Iterator[None]:
    """Turn AWS's refusal to touch a stack that another operation holds into a ConflictError."""
    try:
        yield
    except AwsError as error:
        if is_busy(error.message):
            raise busy(name) from error
        raise


def busy(name: str, status: str = "") -> ConflictError:
    """Build the error of a stack that another operation holds."""
    shown = f" ({status})" if status else ""
    return ConflictError(
        f"another operation on the stack {name} is in progress{shown}",
        hint="wait for it to end, then try again",
    )


def is_busy(text: str) -> bool:
    """Tell "Stack:arn… is in UPDATE_IN_PROGRESS state and can not be updated" from other errors."""
    return _BUSY_TEXT in text


def is_no_change(reason: str) -> bool:
    """Tell a change set that failed for want of changes from one that failed."""
    return any(text in reason for text in _NO_CHANGE_TEXTS)


def response_time(answer: Mapping[str, Any]) -> datetime:
    """Return the time in an answer's header, AWS's clock; whole seconds, so never later than the event."""
    header = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if header:
        return parsedate_to_datetime(header).astimezone(UTC)
    # No header, no AWS clock: start early rather than lose events.
    return datetime.now(UTC) - timedelta(minutes=5)
