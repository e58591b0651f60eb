"""Plan to effects: carries the steps out, each as soon as what it needs is done, and reports what happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from sdctl.clients.aws import Aws, is_expired, is_transient
from sdctl.clients.buckets import Buckets
from sdctl.clients.cloudformation import CloudFormation
from sdctl.clients.iam import Iam
from sdctl.clients.s3 import S3
from sdctl.deploy.context import Outputs, StepContext, stoppable
from sdctl.deploy.stack_steps import carry_out_stack
from sdctl.deploy.steps import (
    BucketStep,
    EmptyBucketStep,
    Event,
    ObjectsStep,
    Plan,
    ReleaseStep,
    ServiceRoleStep,
    StackStep,
    Step,
)
from sdctl.errors import AwsError
from sdctl.polling import REAL_CLOCK, Clock, Pace
from sdctl.render.stacks import outputs_in

if TYPE_CHECKING:
    from sdctl.deploy.release_steps import Releases

STACK_TIMEOUT_SECONDS: Final = 3600
WORKERS: Final = 8
# How often AWS may be asked; the emulator answers at once and is asked more often.
AWS_PACE: Final = Pace(interval_seconds=0.5, factor=1.5, ceiling_seconds=6.0)
LOCAL_PACE: Final = Pace(interval_seconds=0.02, factor=1.5, ceiling_seconds=0.25)
# After botocore's own attempts: a step that met no answer is begun again, in all some minutes.
RETRY_PAUSES_SECONDS: Final = (2.0, 5.0, 15.0, 30.0, 60.0)
# A wait without a limit would miss an interrupt that comes just before it.
WAKE_SECONDS: Final = 0.5
SIGN_IN_PAUSE_SECONDS: Final = 5.0
# A step that meets refused credentials more often is refused for another reason.
MAX_RENEWALS: Final = 3


def _carry_out_bucket(step: BucketStep, context: StepContext) -> None:
    if step.action != "delete":  # making it finishes one that was begun, too
        Buckets(context.aws).ensure(step.name, step.tags)
        return
    for is_last in (False, False, True):
        context.s3.empty(step.name)
        try:
            context.s3.delete_bucket(step.name)
        except AwsError as error:
            # The lock that lies in it may have been renewed in between.
            if is_last or error.aws_code != "BucketNotEmpty":
                raise
        else:
            return


def _empty_bucket(step: EmptyBucketStep, context: StepContext) -> None:
    context.s3.empty(step.name)


def _put_objects(step: ObjectsStep, context: StepContext) -> None:
    for key, body in step.objects.items():
        context.s3.put(step.bucket, key, body)


def _make_service_role(step: ServiceRoleStep, context: StepContext) -> None:
    Iam(context.aws).create_service_role(step.service)


def _carry_out_release(step: ReleaseStep, context: StepContext) -> None:
    if context.releases is None:
        raise TypeError(f"no way to {step.action} the release {step.release.name}: there is no cluster")
    context.releases.carry_out(step, context)


HANDLERS: Final[Mapping[type[Step], Callable[[Any, StepContext], None]]] = {
    BucketStep: _carry_out_bucket,
    EmptyBucketStep: _empty_bucket,
    ObjectsStep: _put_objects,
    ServiceRoleStep: _make_service_role,
    StackStep: carry_out_stack,
    ReleaseStep: _carry_out_release,
}


class Executor:
    """Carries out the plan of a deploy or of a teardown, once."""

    def __init__(
        self,
        aws: Aws,
        report: Callable[[Event], None],
        *,
        pace: Pace = AWS_PACE,
        workers: int = WORKERS,
        timeout_seconds: float = STACK_TIMEOUT_SECONDS,
        clock: Clock = REAL_CLOCK,
        handlers: Mapping[type[Step], Callable[[Any, StepContext], None]] | None = None,
        releases: Releases | None = None,
        sign_in_seconds: float = 0.0,
        new_name: Callable[[], str] = lambda: f"sdctl-{uuid4().hex[:12]}",
    ) -> None:
        """Take the session and where to report to.

        Args:
            aws: the session.
            report: is told of every step and every stack event, one call at a time, from any thread.
            pace: how often AWS is asked for a state.
            workers: how many steps run at once.
            timeout_seconds: for one stack operation.
            clock: time to use.
            handlers: how further kinds of steps are carried out, or known ones otherwise.
            releases: what installs Helm releases, where there is a cluster.
            sign_in_seconds: how long new credentials are waited for, when the present ones are over.
            new_name: makes the names of change sets.
        """
        self._aws = aws
        self._s3 = S3(aws)
        self._cloudformation = CloudFormation(aws)
        self._report = report
        self._stop = Flag()
        self._clock = stoppable(clock, self._stop)
        self._pace = pace
        self._workers = workers
        self._timeout_seconds = timeout_seconds
        self._handlers = {**HANDLERS, **(handlers or {})}
        self._releases = releases
        self._sign_in_seconds = sign_in_seconds
        self._new_name = new_name
        self._known: Outputs = {}
        self._outputs: dict[str, dict[str, str]] = {}
        self._started = clock.monotonic()
        self._told = Lock()
        self._renewing = Lock()
        self._renewals = 0

    def run(self, plan: Plan, known: Outputs | None = None) -> dict[str, dict[str, str]]:
        """Carry out a plan, and return the outputs of its stacks by stack name.

        After a failure what runs is waited for, nothing more is begun, and the first failure is raised. An
        interrupt ends every wait at once; what AWS was asked for goes on there, and the next run follows it.

        Args:
            plan: what to do.
            known: outputs of stacks that were read before, so that those without work are not read again.

        Raises:
            DeployFailedError: a stack failed; lists the first failing resources.
            ConflictError: another operation holds a stack.
            WaitTimeoutError: a stack took too long; the operation goes on in AWS.
            AwsError: a call failed.
            ToolError: helm failed.
        """
        self._known = known or {}
        self._outputs = {name: dict(outputs) for name, outputs in self._known.items()}
        ended: SimpleQueue[tuple[Step, BaseException | None]] = SimpleQueue()
        waiting, running = list(plan.steps), dict[str, Thread]()
        failure: BaseException | None = None
        try:
            while waiting or running:
                ready = _ready(waiting, running)[: self._workers - len(running)]
                for step in ready if failure is None else ():
                    waiting.remove(step)
                    running[step.id] = self._begin(step, ended)
                if not running:
                    break
                step, error = _next(ended)
                del running[step.id]
                failure = failure or error
        except BaseException:
            self.stop()
            for thread in running.values():
                while thread.is_alive():  # a second interrupt leaves without waiting
                    thread.join(WAKE_SECONDS)
            raise
        if failure is not None:
            raise failure
        if waiting:
            raise ValueError(f"the plan's steps wait for each other: {', '.join(one.id for one in waiting)}")
        names = {step.name for step in plan if isinstance(step, StackStep) and step.action != "delete"}
        return {name: outputs for name, outputs in self._outputs.items() if name in names}

    def stop(self) -> None:
        """End every wait, and helm politely; from any thread."""
        self._stop.set()
        if self._releases is not None:
            self._releases.cancel()

    def _begin(self, step: Step, ended: SimpleQueue[tuple[Step, BaseException | None]]) -> Thread:
        # Whoever is reported to may keep its settings in the context, which a thread does not inherit.
        run = partial(copy_context().run, self._work, step, ended)
        thread = Thread(target=run, name=step.id, daemon=True)
        thread.start()
        return thread

    def _work(self, step: Step, ended: SimpleQueue[tuple[Step, BaseException | None]]) -> None:
        """Run one step in a thread of its own; whatever it raises goes to the thread that waits."""
        error: BaseException | None = None
        try:
            self._perform(step)
        except BaseException as caught:  # noqa: BLE001 - raised again by run
            error = caught
            # What fails once everything stops, fails for that: a helm that was ended, for example.
            status = "stopped" if self._stop.is_set() else "failed"
            self._tell(Event(step.id, status, reason="" if self._stop.is_set() else str(caught)))
        ended.put((step, error))

    def _perform(self, step: Step) -> None:
        if step.action == "none" and not self._is_outdated(step):
            self._tell(Event(step.id, "kept"))
            if isinstance(step, StackStep) and step.name not in self._outputs:
                self._persistently(step, lambda: self._read_outputs(step.name))
            return
        self._tell(Event(step.id, "started"))
        self._persistently(step, lambda: self._carry_out(step))
        if isinstance(step, StackStep) and step.action != "delete":
            self._persistently(step, lambda: self._read_outputs(step.name))
        self._tell(Event(step.id, "done"))

    def _carry_out(self, step: Step) -> None:
        handler = self._handlers.get(type(step))
        if handler is None:
            raise TypeError(f"no way to {step.action} a {type(step).__name__}")
        handler(step, self._context(step.id))

    def _is_outdated(self, step: Step) -> bool:
        """Tell whether a step that had nothing to do was planned with outputs that have changed meanwhile."""
        match step:
            case StackStep(parameters=value):
                used = outputs_in(value)
            case ReleaseStep(release=release):
                used = outputs_in(release.values)
            case _:
                return False
        return any(
            before != self._outputs.get(one.stack, {}).get(one.name)
            for one in used
            if (before := self._known.get(one.stack, {}).get(one.name)) is not None
        )

    def _read_outputs(self, name: str) -> None:
        stack = self._cloudformation.find(name)
        self._outputs[name] = dict(stack.outputs) if stack else {}

    def _context(self, step_id: str) -> StepContext:
        return StepContext(
            step_id, self._aws, self._s3, self._cloudformation, self._outputs, self._clock, self._pace,
            self._timeout_seconds, self._tell, self._new_name, self._releases,
        )  # fmt: skip

    def _persistently(self, step: Step, work: Callable[[], None]) -> None:
        """Begin a step's work again when AWS could not be reached, or no longer knew us.

        Every step takes up from whatever state there is, so that nothing is done twice.
        """
        pauses, renewals_left = iter(RETRY_PAUSES_SECONDS), MAX_RENEWALS
        while True:
            renewals = self._renewals
            try:
                return work()
            except AwsError as error:
                if is_expired(error) and renewals_left:
                    renewals_left -= 1
                    self._sign_in(step, error, renewals)
                elif not is_transient(error) or (pause := next(pauses, None)) is None:
                    raise
                else:
                    reason = f"an answer: {error.message}; the next attempt is in {pause:g} s"
                    self._tell(Event(step.id, "waiting", reason=reason))
                    self._clock.sleep(pause)

    def _sign_in(self, step: Step, error: AwsError, renewals: int) -> None:
        """Wait for new credentials, once for all steps that fail at the same time.

        Raises:
            AwsError: the given one; there were none in time.
        """
        with self._renewing:
            if self._renewals > renewals:
                return
            self._tell(Event(step.id, "waiting", reason=f"new credentials: {error.message}"))
            deadline = self._clock.monotonic() + self._sign_in_seconds
            while not self._aws.renew():
                if self._clock.monotonic() >= deadline:
                    raise error
                self._clock.sleep(SIGN_IN_PAUSE_SECONDS)
            self._renewals += 1

    def _tell(self, event: Event) -> None:
        with self._told:
            elapsed = self._clock.monotonic() - self._started
            self._report(replace(event, elapsed_seconds=elapsed))


def _next(ended: SimpleQueue[tuple[Step, BaseException | None]]) -> tuple[Step, BaseException | None]:
    while True:
        try:
            return ended.get(timeout=WAKE_SECONDS)
        except Empty:
            continue


def _ready(waiting: list[Step], running: Mapping[str, Thread]) -> list[Step]:
    """Return the steps that have all they need; what is not in the plan is there."""
    unfinished = {step.id for step in waiting} | running.keys()
    return [step for step in waiting if unfinished.isdisjoint(step.needs)]
