"""The executor where an emulator never goes: stuck, slow, refused and contended stacks."""

from __future__ import annotations

import inspect
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Barrier, Lock, Thread
from threading import Event as Flag
from typing import Any

import pytest

from fakes.cloudformation import FakeCloudFormation, event
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.cloudformation import CloudFormation
from sdctl.deploy.context import StepContext
from sdctl.deploy.executor import RETRY_PAUSES_SECONDS, Executor
from sdctl.deploy.steps import BucketStep, Event, Plan, StackStep, Step
from sdctl.errors import AwsError, DeployFailedError, WaitTimeoutError
from sdctl.polling import Clock, Pace
from sdctl.render.stacks import Output

STEP = StackStep(id="front", action="update", name="xStack", body="{}")


class Run:
    """An executor on a scripted CloudFormation and a clock that only sleeps move."""

    def __init__(self, fake: FakeCloudFormation, timeout_seconds: float = 100) -> None:
        self.events: list[Event] = []
        self.now = 0.0
        clock = Clock(monotonic=lambda: self.now, sleep=self.sleep, uniform=lambda low, _high: low)
        self.executor = Executor(
            Aws(AwsAccess("us-west-2")), self.events.append, timeout_seconds=timeout_seconds, clock=clock,
            new_name=lambda: "changes",
        )  # fmt: skip
        self.executor._cloudformation = fake  # type: ignore[assignment]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self, step: Step = STEP) -> dict[str, str]:
        return self.executor.run(Plan((step,))).get("xStack", {})


def test_the_fake_has_the_signatures_of_the_real_client() -> None:
    for name, method in inspect.getmembers(FakeCloudFormation, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(method) == inspect.signature(getattr(CloudFormation, name)), name


def test_events_of_the_operation_before_are_not_reported_again() -> None:
    events = [event(1, "Old", "UPDATE_FAILED", "old trouble"), event(2, "New", "UPDATE_COMPLETE")]
    fake = FakeCloudFormation(["CREATE_COMPLETE", "UPDATE_COMPLETE"], events, old_events=1)
    run = Run(fake)
    assert run() == {"Out": "put"}
    assert [item.resource for item in run.events] == ["", "New", ""]


def test_a_stuck_rollback_is_continued_before_the_update() -> None:
    fake = FakeCloudFormation(
        ["UPDATE_ROLLBACK_FAILED", "UPDATE_ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "UPDATE_COMPLETE"]
    )
    Run(fake)()
    assert fake.calls == ["continue_rollback", "create_change_set update TemplateBody", "execute_change_set"]


def test_no_change_is_success_and_leaves_no_change_set() -> None:
    reason = "The submitted information didn't contain changes."
    fake = FakeCloudFormation(["CREATE_COMPLETE"], change_set=("FAILED", reason))
    assert Run(fake)() == {"Out": "put"}
    assert fake.calls == ["create_change_set update TemplateBody", "delete_change_set"]


def test_a_refused_template_of_a_new_stack_takes_the_shell_away() -> None:
    fake = FakeCloudFormation(["REVIEW_IN_PROGRESS"], change_set=("FAILED", "Circular dependency"))
    with pytest.raises(
        DeployFailedError, match="refuses the template of the stack xStack: Circular dependency"
    ):
        Run(fake)()
    assert fake.calls[-2:] == ["delete_change_set", "delete"]


def test_what_an_interrupted_run_began_is_waited_for_and_then_gone_on_from() -> None:
    fake = FakeCloudFormation(
        ["CREATE_IN_PROGRESS", "CREATE_IN_PROGRESS", "CREATE_COMPLETE", "CREATE_COMPLETE", "UPDATE_COMPLETE"]
    )
    run = Run(fake)
    run()
    assert fake.calls == ["create_change_set update TemplateBody", "execute_change_set"]
    assert run.events[1].reason == "the operation under way on xStack (CREATE_IN_PROGRESS)"


def test_what_an_interrupted_run_left_failing_is_deleted_and_made_anew() -> None:
    fake = FakeCloudFormation(
        ["ROLLBACK_IN_PROGRESS", "ROLLBACK_COMPLETE", None, "REVIEW_IN_PROGRESS", "CREATE_COMPLETE"]
    )
    Run(fake)(replace(STEP, action="create"))
    assert fake.calls == ["delete", "create_change_set new TemplateBody", "execute_change_set"]


def test_a_deletion_that_is_under_way_is_followed_to_its_end() -> None:
    fake = FakeCloudFormation(["DELETE_IN_PROGRESS", "DELETE_IN_PROGRESS", None])
    assert Run(fake)(StackStep(id="front", action="delete", name="xStack")) == {}


def test_a_failure_lists_the_first_failing_resources_and_not_those_cancelled_for_it() -> None:
    events = [
        event(1, "Broken", "UPDATE_FAILED", "no such thing"),
        event(2, "Innocent", "UPDATE_FAILED", "Resource update cancelled"),
        *(event(number, f"Also{number}", "UPDATE_FAILED", "that too") for number in range(3, 9)),
        event(9, "xStack", "UPDATE_ROLLBACK_IN_PROGRESS", "The following resource(s) failed"),
    ]
    fake = FakeCloudFormation(["CREATE_COMPLETE", "CREATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"], events)
    with pytest.raises(DeployFailedError) as caught:
        Run(fake)()
    lines = caught.value.message.splitlines()
    assert lines[0] == "the stack xStack ended as UPDATE_ROLLBACK_COMPLETE"
    assert lines[1] == "  Broken (AWS::SQS::Queue): no such thing"
    assert lines[-1] == "  and 2 more"
    assert "Innocent" not in caught.value.message
    assert caught.value.exit_code == 6


def test_a_stack_that_takes_too_long_is_left_to_aws_and_named_with_its_state() -> None:
    fake = FakeCloudFormation(["CREATE_COMPLETE", "CREATE_COMPLETE", "UPDATE_IN_PROGRESS"])
    run = Run(fake, timeout_seconds=60)
    with pytest.raises(WaitTimeoutError, match="the stack xStack; last seen: UPDATE_IN_PROGRESS"):
        run()
    assert 60 <= run.now < 70


def test_a_step_without_work_touches_nothing() -> None:
    fake = FakeCloudFormation(["CREATE_COMPLETE"])
    run = Run(fake)
    assert run(StackStep(id="front", action="none", name="xStack")) == {"Out": "put"}
    assert fake.calls == []
    assert [item.status for item in run.events] == ["kept"]


def test_a_kind_of_step_that_nobody_knows_is_an_error() -> None:
    odd: Any = Step(id="odd", action="create")
    with pytest.raises(TypeError, match="no way to create a Step"):
        Run(FakeCloudFormation([None]))(odd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed(Step):
    """A step of these tests: what it does is in `deeds`."""


Does = Callable[[StepContext], None]


class Deeds:
    """An executor whose steps do what a test says, and a record of the events."""

    def __init__(self, deeds: dict[str, Does], **options: Any) -> None:
        self.events: list[Event] = []
        self.executor = Executor(
            Aws(AwsAccess("us-west-2")), self.events.append,
            handlers={Deed: lambda step, context: deeds[step.id](context)}, **options,
        )  # fmt: skip

    def run(self, *steps: Step) -> None:
        self.executor.run(Plan(steps))

    def told(self) -> list[tuple[str, str]]:
        return [(event.step, event.status) for event in self.events]


def deed(step_id: str, *needs: str) -> Deed:
    return Deed(id=step_id, action="create", needs=needs)


def nothing(_: StepContext) -> None:
    """Be done at once."""


def test_steps_that_do_not_need_each_other_run_at_the_same_time_and_others_wait() -> None:
    meeting = Barrier(2)

    def meet(_: StepContext) -> None:
        meeting.wait(timeout=10)

    run = Deeds({"a": meet, "b": meet, "c": nothing})
    run.run(deed("c", "a", "b"), deed("a"), deed("b"))
    assert run.told()[-2:] == [("c", "started"), ("c", "done")]
    assert {("a", "done"), ("b", "done")} <= set(run.told()[:-2])


def test_no_more_steps_run_at_once_than_there_are_workers() -> None:
    running, most, lock = 0, 0, Lock()

    def count(_: StepContext) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    names = [f"s{number}" for number in range(12)]
    Deeds(dict.fromkeys(names, count), workers=3).run(*map(deed, names))
    assert most == 3


def test_a_failure_lets_running_steps_end_and_starts_nothing_more() -> None:
    has_failed = Flag()

    def fail(_: StepContext) -> None:
        raise DeployFailedError("broken")

    def outlive(_: StepContext) -> None:
        assert has_failed.wait(10)

    run = Deeds({"bad": fail, "long": outlive, "after": nothing, "next": nothing})
    report = run.executor._report

    def reporting(event: Event) -> None:
        report(event)
        if event.status == "failed":
            has_failed.set()

    run.executor._report = reporting
    with pytest.raises(DeployFailedError, match="broken"):
        run.run(deed("bad"), deed("long"), deed("after", "bad"), deed("next", "long"))
    assert ("long", "done") in run.told()
    assert not {"after", "next"} & {step for step, _ in run.told()}
    assert next(event.reason for event in run.events if event.status == "failed") == "broken"


def test_an_interrupt_ends_every_wait_at_once() -> None:
    begun = Flag()

    def wait_for_ever(context: StepContext) -> None:
        begun.set()
        context.poll(lambda: None, awaited="never", timeout_seconds=600)

    run = Deeds({"long": wait_for_ever, "after": nothing}, pace=Pace(60, 1, 60))

    def interrupt() -> None:
        assert begun.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=interrupt).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run.run(deed("long"), deed("after", "long"))
    assert time.monotonic() - started < 10
    assert ("long", "failed") not in run.told()


def test_steps_that_wait_for_each_other_are_refused_and_not_waited_for() -> None:
    with pytest.raises(ValueError, match="wait for each other: a, b"):
        Deeds({}).run(deed("a", "b"), deed("b", "a"))


def test_a_lost_connection_begins_the_step_again_and_a_refusal_does_not() -> None:
    tries: list[float] = []
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def lose(_: StepContext) -> None:
        tries.append(now)
        if len(tries) < 3:
            raise AwsError("could not read: no connection", aws_code="EndpointConnectionError")

    clock = Clock(monotonic=lambda: now, sleep=sleep, uniform=lambda low, _high: low)
    run = Deeds({"a": lose}, clock=clock)
    run.run(deed("a"))
    assert tries == [0, 2, 7]
    waits = [event.reason for event in run.events if event.status == "waiting"]
    assert waits[0] == "an answer: could not read: no connection; the next attempt is in 2 s"

    def refuse(_: StepContext) -> None:
        tries.append(now)
        raise AwsError("no", aws_code="AccessDenied")

    tries.clear()
    with pytest.raises(AwsError, match="no"):
        Deeds({"a": refuse}, clock=clock).run(deed("a"))
    assert len(tries) == 1

    def never(_: StepContext) -> None:
        tries.append(now)
        raise AwsError("gone", aws_code="Throttling")

    tries.clear()
    with pytest.raises(AwsError, match="gone"):
        Deeds({"a": never}, clock=clock).run(deed("a"))
    assert len(tries) == 1 + len(RETRY_PAUSES_SECONDS)


class SignedOut(Aws):
    """A session whose credentials are over, and of which somebody signs in again at the third look."""

    def __init__(self, looks: int) -> None:
        super().__init__(AwsAccess("us-west-2"))
        self.looks = looks
        self.is_signed_in = False

    def renew(self) -> bool:
        self.looks -= 1
        self.is_signed_in = self.looks <= 0
        return self.is_signed_in


@pytest.mark.parametrize(("patience", "is_done"), [(60.0, True), (0.0, False)])
def test_credentials_that_are_over_are_waited_for_once_for_all_steps(patience: float, is_done: bool) -> None:
    aws, now, meeting = SignedOut(3), 0.0, Barrier(2)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def work(_: StepContext) -> None:
        if not aws.is_signed_in:
            meeting.wait(timeout=10)
            raise AwsError("expired", aws_code="ExpiredToken")

    events: list[Event] = []
    executor = Executor(
        aws, events.append, handlers={Deed: lambda _, context: work(context)}, sign_in_seconds=patience,
        clock=Clock(monotonic=lambda: now, sleep=sleep, uniform=lambda low, _high: low),
    )  # fmt: skip
    plan = Plan((deed("a"), deed("b")))
    if is_done:
        executor.run(plan)
        assert aws.looks == 0
        assert [event.status for event in events].count("waiting") == 1
    else:
        with pytest.raises(AwsError, match="expired"):
            executor.run(plan)


def test_what_had_nothing_to_do_is_done_when_the_outputs_it_uses_have_changed() -> None:
    fake = FakeCloudFormation(["UPDATE_COMPLETE"], change_set=("FAILED", "didn't contain changes"))
    run = Run(fake)
    user = StackStep(
        id="user", action="none", name="user", parameters={"A": Output("xStack", "Out")}, needs=("front",),
    )  # fmt: skip
    same = replace(user, id="same", name="same", parameters={"A": Output("other", "Out")})
    known = {"xStack": {"Out": "old"}, "user": {}, "same": {}, "other": {"Out": "put"}}
    run.executor.run(Plan((replace(STEP, action="update"), user, same)), known)
    told = {(event.step, event.status) for event in run.events}
    assert {("user", "done"), ("same", "kept")} <= told


def test_a_stack_that_is_to_be_protected_is_protected_once() -> None:
    fake = FakeCloudFormation(["REVIEW_IN_PROGRESS", "REVIEW_IN_PROGRESS", "CREATE_COMPLETE"])
    Run(fake)(replace(STEP, action="create", is_protected=True))
    assert fake.calls[-1] == "protect"
    fake = FakeCloudFormation(["CREATE_COMPLETE", "CREATE_COMPLETE", "UPDATE_COMPLETE"], is_protected=True)
    Run(fake)(replace(STEP, is_protected=True))
    assert "protect" not in fake.calls


class _BucketThatFills:
    """S3 where somebody stores an object before each of the first deletions of a bucket."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls: list[str] = []

    def empty(self, bucket: str) -> int:
        self.calls.append(f"empty {bucket}")
        return 1

    def delete_bucket(self, bucket: str) -> None:
        self.calls.append(f"delete {bucket}")
        self.times -= 1
        if self.times >= 0:
            raise AwsError("not empty", operation="DeleteBucket", aws_code="BucketNotEmpty")


def test_a_bucket_that_is_written_to_while_it_goes_is_emptied_again() -> None:
    run = Run(FakeCloudFormation([]))
    bucket = run.executor._s3 = _BucketThatFills(2)  # type: ignore[assignment]
    run(BucketStep(id="asset-bucket", action="delete", name="assets"))
    assert bucket.calls == ["empty assets", "delete assets"] * 3
    run.executor._s3 = _BucketThatFills(3)  # type: ignore[assignment]
    with pytest.raises(AwsError, match="not empty"):
        run(BucketStep(id="asset-bucket", action="delete", name="assets"))
