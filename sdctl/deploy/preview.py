"""What a plan would do to stacks that exist, asked of CloudFormation itself; nothing is executed.

Change sets are made, read and deleted again. Where there is nothing to ask, no call is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import uuid4

from sdctl.clients.aws import Aws
from sdctl.clients.cloudformation import CloudFormation, ResourceChange
from sdctl.clients.s3 import S3
from sdctl.deploy.context import Outputs, StepContext
from sdctl.deploy.stack_steps import CHANGE_SET_TIMEOUT_SECONDS, prepare_changes
from sdctl.deploy.steps import PROTECTION, Plan, StackStep, Step
from sdctl.errors import NotFoundError
from sdctl.polling import REAL_CLOCK, Clock, Pace
from sdctl.render.stacks import resolve

_WORKERS: Final = 8
_PACE: Final = Pace(interval_seconds=0.5, factor=1.5, ceiling_seconds=3.0)


@dataclass(frozen=True, slots=True)
class Preview:
    """A plan, corrected by what AWS says of it; `changes` by step id, where AWS was asked."""

    plan: Plan
    changes: Mapping[str, tuple[ResourceChange, ...]] = field(default_factory=dict)

    @property
    def replacements(self) -> list[tuple[str, ResourceChange]]:
        """The resources that are, or may be, made anew, each with its step's id."""
        found = ((step, change) for step, changes in self.changes.items() for change in changes)
        return [(step, change) for step, change in found if change.is_replacement]


def preview(aws: Aws, plan: Plan, outputs: Outputs, clock: Clock = REAL_CLOCK) -> Preview:
    """Ask CloudFormation what the updates of a plan would change.

    Args:
        aws: the session.
        plan: from the planner.
        outputs: of the stacks that are there; a stack that needs one not there yet is not asked about.
        clock: time to use.

    Raises:
        DeployFailedError: AWS refuses a template.
    """
    asked = [step for step in plan if isinstance(step, StackStep) and _can_be_asked(step, outputs)]
    context = StepContext(
        "preview", aws, S3(aws), CloudFormation(aws), outputs, clock, _PACE, CHANGE_SET_TIMEOUT_SECONDS,
        lambda _: None, lambda: f"sdctl-preview-{uuid4().hex[:12]}",
    )  # fmt: skip
    with ThreadPoolExecutor(_WORKERS) as pool:
        found = list(pool.map(lambda step: _asked(step, context), asked))
    changes = {step.id: some for step, some in zip(asked, found, strict=True) if some is not None}
    same = {step.id for step, some in zip(asked, found, strict=True) if some is None}
    return Preview(Plan(tuple(_corrected(step, same) for step in plan)), changes)


def _can_be_asked(step: StackStep, outputs: Outputs) -> bool:
    if step.action != "update" or step.is_stuck or step.is_busy:
        return False
    try:
        resolve(step.parameters, outputs)
    except NotFoundError:
        return False
    return True


def _asked(step: StackStep, context: StepContext) -> tuple[ResourceChange, ...] | None:
    """Return what a step would change, or None for nothing."""
    change_set = prepare_changes(step, context, is_new=False)
    if change_set is None:
        return None
    try:
        return tuple(context.cloudformation.changes(step.name, change_set))
    finally:
        context.cloudformation.delete_change_set(step.name, change_set)


def _corrected(step: Step, same: set[str]) -> Step:
    """A stack whose text differs, but in nothing that CloudFormation would do, is left alone."""
    is_same = isinstance(step, StackStep) and step.id in same and PROTECTION not in step.detail
    return replace(step, action="none") if is_same else step
