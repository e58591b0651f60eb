"""The executor where an emulator never goes: stuck, slow, refused and contended stacks."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest

from fakes.cloudformation import FakeCloudFormation, event
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.cloudformation import CloudFormation
from sdctl.deploy.executor import Executor
from sdctl.deploy.steps import Event, Plan, StackStep, Step
from sdctl.errors import DeployFailedError, WaitTimeoutError
from sdctl.polling import Clock

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
