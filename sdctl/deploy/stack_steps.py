"""Carrying out a stack's step: change sets and deletions, from whatever state the stack was left in.

Nothing is refused for being under way: the deploy's lock says that nobody else is at work, so an operation
in progress is what an interrupted run of ours began, and it is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Final

from sdctl.clients.cloudformation import (
    MAX_INLINE_TEMPLATE_BYTES,
    StackEvent,
    StackState,
    StackView,
    is_no_change,
)
from sdctl.deploy.context import StepContext
from sdctl.deploy.failures import hint_for
from sdctl.deploy.steps import StackStep
from sdctl.errors import AwsError, DeployFailedError
from sdctl.render.stacks import resolve

CHANGE_SET_TIMEOUT_SECONDS: Final = 300
SHOWN_FAILURES: Final = 5


def carry_out_stack(step: StackStep, context: StepContext) -> None:
    """Create, update or delete a stack and wait for its end.

    Raises:
        DeployFailedError: it failed; lists the first failing resources.
        ConflictError: another operation took it meanwhile.
        WaitTimeoutError: it took too long; the operation goes on in AWS.
    """
    work = _StackWork(step, context)
    if step.action == "delete":
        work.delete(work.at_rest())
    else:
        work.apply()


@dataclass(frozen=True, slots=True)
class _StackWork:
    step: StackStep
    context: StepContext

    def apply(self) -> None:
        name, cloudformation = self.step.name, self.context.cloudformation
        view = self.at_rest()
        if view and view.state is StackState.BROKEN:
            self.delete(view)
            view = None
        elif view and view.state is StackState.STUCK:
            begin = partial(cloudformation.continue_rollback, name)
            self._run_operation(view, begin, ("UPDATE_ROLLBACK_COMPLETE",))
        is_new = view is None or view.state is StackState.ABSENT
        change_set = prepare_changes(self.step, self.context, is_new=is_new)
        if change_set is not None:
            begin = partial(cloudformation.execute_change_set, name, change_set)
            self._run_operation(self._existing(), begin, ("CREATE_COMPLETE", "UPDATE_COMPLETE"))
        if self.step.is_protected and not (view and view.is_protected):
            cloudformation.protect(name)

    def at_rest(self) -> StackView | None:
        """Return the stack once nothing is under way on it."""
        view = self.context.cloudformation.find(self.step.name)
        if view is None or view.state is not StackState.BUSY:
            return view
        self.context.waiting(f"the operation under way on {view.name} ({view.status})")
        seen, last = self.context.cloudformation.last_events(view.id)
        end = self._follow(view, seen, last, [])
        return None if end.status == "DELETE_COMPLETE" else end

    def delete(self, view: StackView | None) -> None:
        if view is None:
            return
        cloudformation = self.context.cloudformation
        if view.is_protected:
            cloudformation.unprotect(view.name)
        self._run_operation(view, partial(cloudformation.delete, view.name), ("DELETE_COMPLETE",))

    def _existing(self) -> StackView:
        stack = self.context.cloudformation.find(self.step.name)
        if stack is None:
            raise AwsError(f"the stack {self.step.name} was deleted meanwhile")
        return stack

    def _run_operation(self, stack: StackView, begin: Callable[[], datetime], good: tuple[str, ...]) -> None:
        """Begin an operation, follow it, and raise unless it came to a good end.

        Its events are those after the last one before it: answers' headers tell AWS's time in whole
        seconds, so earlier events may share the second.
        """
        seen, last = self.context.cloudformation.last_events(stack.id)
        since = begin()
        events: list[StackEvent] = []
        end = self._follow(stack, seen, max(since, last) if last else since, events)
        if end.status not in good:
            raise stack_failed(end, [event for event in events if event.is_failure])

    def _follow(
        self, stack: StackView, seen: set[str], since: datetime | None, fresh: list[StackEvent]
    ) -> StackView:
        """Report a stack's events, all but the `seen` ones, until it is at rest; they end up in `fresh`."""
        context, last = self.context, [stack.status]

        def probe() -> StackView | None:
            # The state is read before the events: what ended is in them.
            view = context.cloudformation.find(stack.id)
            for event in context.cloudformation.events_since(stack.id, since) if since else ():
                if event.id not in seen:
                    seen.add(event.id)
                    fresh.append(event)
                    context.resource(event)
            if view is None:
                return StackView(stack.name, stack.id, "DELETE_COMPLETE")
            last[0] = view.status
            # What has just begun may not show yet.
            has_begun = bool(fresh) or view.status != stack.status
            return view if has_begun and not view.status.endswith("_IN_PROGRESS") else None

        return context.poll(probe, awaited=f"the stack {stack.name}", state=lambda: last[0])


def prepare_changes(step: StackStep, context: StepContext, *, is_new: bool) -> str | None:
    """Create the change set of a step and wait until it can be read or executed.

    Returns:
        Its ARN, or None where there is nothing to change.

    Raises:
        DeployFailedError: AWS refuses the template; nothing is left behind.
    """
    cloudformation = context.cloudformation
    change_set = cloudformation.create_change_set(
        step.name, context.new_name(), is_new=is_new, template=_template(step, context),
        parameters=resolve(step.parameters, context.outputs), tags=step.tags,
    )  # fmt: skip
    seen = ["", ""]

    def probe() -> str | None:
        seen[:] = cloudformation.change_set_status(step.name, change_set)
        return seen[0] if seen[0] in ("CREATE_COMPLETE", "FAILED") else None

    awaited, limit = f"the changes of the stack {step.name}", CHANGE_SET_TIMEOUT_SECONDS
    status = context.poll(probe, awaited=awaited, timeout_seconds=limit, state=lambda: seen[0])
    if status == "CREATE_COMPLETE":
        return change_set
    cloudformation.delete_change_set(step.name, change_set)
    if is_no_change(seen[1]) and not is_new:
        return None
    if is_new:
        cloudformation.delete(step.name)  # the stack of a refused first change set is an empty shell
    reason = seen[1] or "no reason given"
    raise DeployFailedError(
        f"AWS refuses the template of the stack {step.name}: {reason}", hint=hint_for(reason)
    )


def _template(step: StackStep, context: StepContext) -> dict[str, str]:
    """Send a template inline where it is short enough, else through the asset bucket."""
    body = step.body.encode()
    if len(body) <= MAX_INLINE_TEMPLATE_BYTES:
        return {"TemplateBody": step.body}
    key = f"templates/{step.name}-{sha256(body).hexdigest()[:32]}.json"
    context.s3.put(step.asset_bucket, key, body)
    return {"TemplateURL": context.s3.url(step.asset_bucket, key)}


def stack_failed(stack: StackView, failures: list[StackEvent]) -> DeployFailedError:
    """Build the error of a stack that failed: the first failing resources with their reasons."""
    own = [event for event in failures if event.type != "AWS::CloudFormation::Stack"] or failures
    lines = [f"  {event.resource} ({event.type}): {event.reason}" for event in own[:SHOWN_FAILURES]]
    if len(own) > SHOWN_FAILURES:
        lines.append(f"  and {len(own) - SHOWN_FAILURES} more")
    reason = "" if lines else f": {stack.reason or 'no reason given'}"
    return DeployFailedError(
        "\n".join([f"the stack {stack.name} ended as {stack.status}{reason}", *lines]),
        hint=hint_for(own[0].reason if own else stack.reason),
    )
