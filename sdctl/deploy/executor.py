"""Plan to effects: carries the steps out in order and reports what happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Final
from uuid import uuid4

from sdctl.clients.aws import Aws
from sdctl.clients.cloudformation import (
    MAX_INLINE_TEMPLATE_BYTES,
    CloudFormation,
    StackEvent,
    StackState,
    StackView,
    busy,
    is_no_change,
)
from sdctl.clients.s3 import S3
from sdctl.deploy.steps import BucketStep, EmptyBucketStep, Event, ObjectsStep, Plan, StackStep, Step
from sdctl.errors import AwsError, DeployFailedError
from sdctl.polling import REAL_CLOCK, Clock, Pace, poll

STACK_TIMEOUT_SECONDS: Final = 3600
CHANGE_SET_TIMEOUT_SECONDS: Final = 300
SHOWN_FAILURES: Final = 5
# How often AWS may be asked; the emulator answers at once and is asked more often.
AWS_PACE: Final = Pace(interval_seconds=2.0, factor=1.3, ceiling_seconds=8.0)
LOCAL_PACE: Final = Pace(interval_seconds=0.02, factor=1.5, ceiling_seconds=0.25)


@dataclass(frozen=True, slots=True)
class _Watch:
    """A stack operation that is under way: since when by AWS's clock, and the events of earlier ones."""

    step: str
    stack: StackView
    since: datetime
    seen: set[str]


class Executor:
    """Carries out the plan of a deploy or of a teardown."""

    def __init__(
        self,
        aws: Aws,
        report: Callable[[Event], None],
        *,
        pace: Pace = AWS_PACE,
        timeout_seconds: float = STACK_TIMEOUT_SECONDS,
        clock: Clock = REAL_CLOCK,
        new_name: Callable[[], str] = lambda: f"sdctl-{uuid4().hex[:12]}",
    ) -> None:
        """Take the session and where to report to.

        Args:
            aws: the session.
            report: is told of every step and every stack event, in order.
            pace: how often a stack is asked for its state.
            timeout_seconds: for one stack operation.
            clock: time to use.
            new_name: makes the names of change sets.
        """
        self._aws = aws
        self._s3 = S3(aws)
        self._cloudformation = CloudFormation(aws)
        self._report = report
        self._pace = pace
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._new_name = new_name
        self._started = clock.monotonic()

    def run(self, plan: Plan) -> dict[str, str]:
        """Carry out a plan, and return the outputs of its stacks.

        Raises:
            DeployFailedError: a stack failed; lists the first failing resources.
            ConflictError: another operation holds a stack.
            WaitTimeoutError: a stack took too long; the operation goes on in AWS.
            AwsError: a call failed.
        """
        outputs: dict[str, str] = {}
        for step in plan.steps:
            if step.action == "none":
                self._tell(step.id, "kept")
            else:
                self._tell(step.id, "started")
                self._carry_out(step)
                self._tell(step.id, "done")
            if isinstance(step, StackStep) and step.action != "delete":
                stack = self._cloudformation.find(step.name)
                outputs |= stack.outputs if stack else {}
        return outputs

    def _carry_out(self, step: Step) -> None:
        match step:
            case BucketStep(action="create"):
                self._s3.create_bucket(step.name, {})
            case BucketStep(action="delete"):
                self._s3.empty(step.name)
                self._s3.delete_bucket(step.name)
            case EmptyBucketStep(action="delete"):
                self._s3.empty(step.name)
            case ObjectsStep():
                for key, body in step.objects.items():
                    self._s3.put(step.bucket, key, body)
            case StackStep(action="delete"):
                self._delete_stack(step)
            case StackStep():
                self._apply_stack(step)
            case _:
                raise TypeError(f"no way to {step.action} a {type(step).__name__}")

    def _tell(self, step: str, status: str, event: StackEvent | None = None) -> None:
        elapsed = self._clock.monotonic() - self._started
        if event is None:
            self._report(Event(step, status, elapsed_seconds=elapsed))
        else:
            self._report(Event(step, status, event.resource, event.type, event.reason, elapsed))

    def _apply_stack(self, step: StackStep) -> None:
        view = self._cloudformation.find(step.name)
        if view and view.state is StackState.BUSY:
            raise busy(view.name, view.status)
        if view and view.state is StackState.BROKEN:
            self._delete_stack(step)
            view = None
        elif view and view.state is StackState.STUCK:
            self._continue_rollback(step, view)
        is_new = view is None or view.state is StackState.ABSENT
        change_set = self._cloudformation.create_change_set(
            step.name,
            self._new_name(),
            is_new=is_new,
            template=self._template(step),
            parameters=step.parameters,
            tags=step.tags,
        )
        if not self._has_changes(step.name, change_set, is_new=is_new):
            return
        stack = self._existing(step.name)
        begin = partial(self._cloudformation.execute_change_set, step.name, change_set)
        self._run_operation(step, stack, begin, ("CREATE_COMPLETE", "UPDATE_COMPLETE"))

    def _template(self, step: StackStep) -> dict[str, str]:
        """Send a template inline where it is short enough, else through the asset bucket."""
        body = step.body.encode()
        if len(body) <= MAX_INLINE_TEMPLATE_BYTES:
            return {"TemplateBody": step.body}
        key = f"templates/{step.name}-{sha256(body).hexdigest()[:32]}.json"
        self._s3.put(step.asset_bucket, key, body)
        return {"TemplateURL": self._s3.url(step.asset_bucket, key)}

    def _has_changes(self, name: str, change_set: str, *, is_new: bool) -> bool:
        """Wait for a change set; one that is refused (having no change is not that) leaves nothing behind."""
        seen = ["", ""]

        def probe() -> str | None:
            seen[:] = self._cloudformation.change_set_status(name, change_set)
            return seen[0] if seen[0] in ("CREATE_COMPLETE", "FAILED") else None

        status = poll(
            probe,
            awaited=f"the changes of the stack {name}",
            timeout_seconds=CHANGE_SET_TIMEOUT_SECONDS,
            pace=self._pace,
            state=lambda: seen[0],
            clock=self._clock,
        )
        if status == "CREATE_COMPLETE":
            return True
        self._cloudformation.delete_change_set(name, change_set)
        if is_no_change(seen[1]) and not is_new:
            return False
        if is_new:
            self._cloudformation.delete(name)  # the stack of a refused first change set is an empty shell
        raise DeployFailedError(
            f"AWS refuses the template of the stack {name}: {seen[1] or 'no reason given'}"
        )

    def _existing(self, name: str) -> StackView:
        stack = self._cloudformation.find(name)
        if stack is None:
            raise AwsError(f"the stack {name} was deleted meanwhile")
        return stack

    def _continue_rollback(self, step: StackStep, stack: StackView) -> None:
        begin = partial(self._cloudformation.continue_rollback, stack.name)
        self._run_operation(step, stack, begin, ("UPDATE_ROLLBACK_COMPLETE",))

    def _delete_stack(self, step: StackStep) -> None:
        stack = self._cloudformation.find(step.name)
        if stack is None:
            return
        if stack.state is StackState.BUSY and stack.status != "DELETE_IN_PROGRESS":
            raise busy(stack.name, stack.status)
        begin = partial(self._cloudformation.delete, stack.name)
        self._run_operation(step, stack, begin, ("DELETE_COMPLETE",))

    def _run_operation(
        self, step: Step, stack: StackView, begin: Callable[[], datetime], good: tuple[str, ...]
    ) -> None:
        """Begin an operation and follow it. Its events are those after the last one before it.

        Answers' headers tell AWS's time in whole seconds, so earlier events may share the second.
        """
        seen, last = self._cloudformation.last_events(stack.id)
        since = begin()
        self._watch(_Watch(step.id, stack, max(since, last) if last else since, seen), good)

    def _watch(self, watch: _Watch, good: tuple[str, ...]) -> None:
        """Report a stack's events until it is at rest, and raise unless it came to a good end."""
        failures: list[StackEvent] = []
        last = [watch.stack.status]

        def probe() -> StackView | None:
            # The state is read before the events: what ended is in them.
            view = self._cloudformation.find(watch.stack.id)
            for event in self._cloudformation.events_since(watch.stack.id, watch.since):
                if event.id not in watch.seen:
                    watch.seen.add(event.id)
                    self._tell(watch.step, event.status, event)
                    failures.extend([event] if event.is_failure else [])
            if view is None:
                return StackView(watch.stack.name, watch.stack.id, "DELETE_COMPLETE")
            last[0] = view.status
            return None if view.status.endswith("_IN_PROGRESS") else view

        end = poll(
            probe,
            awaited=f"the stack {watch.stack.name}",
            timeout_seconds=self._timeout_seconds,
            pace=self._pace,
            state=lambda: last[0],
            clock=self._clock,
        )
        if end.status not in good:
            raise stack_failed(end, failures)


def stack_failed(stack: StackView, failures: list[StackEvent]) -> DeployFailedError:
    """Build the error of a stack that failed: the first failing resources with their reasons."""
    own = [event for event in failures if event.type != "AWS::CloudFormation::Stack"] or failures
    lines = [f"  {event.resource} ({event.type}): {event.reason}" for event in own[:SHOWN_FAILURES]]
    if len(own) > SHOWN_FAILURES:
        lines.append(f"  and {len(own) - SHOWN_FAILURES} more")
    reason = "" if lines else f": {stack.reason or 'no reason given'}"
    return DeployFailedError(
        "\n".join([f"the stack {stack.name} ended as {stack.status}{reason}", *lines]),
        hint="mend what the first line names, then run the same command again: it takes up where it is",
    )
