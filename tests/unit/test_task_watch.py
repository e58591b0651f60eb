"""Following tasks, with a clock that costs no time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from sdctl.errors import ApiError, NotFoundError, WaitTimeoutError
from sdctl.polling import Clock
from sdctl.tasks.answers import RemoteTask
from sdctl.tasks.api import TaskApi
from sdctl.tasks.transport import UnreachableError
from sdctl.tasks.watch import follow

Answer = RemoteTask | Exception


@dataclass
class FakeTime:
    """A clock that jumps when it is asked to sleep."""

    now: float = 100.0
    sleeps: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, sleep=self.sleep, uniform=lambda low, high: (low + high) / 2)


class FakeApi:
    """Answers `get` from a list; its last entry repeats."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers

    def get(self, task_id: str) -> RemoteTask:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def api(*answers: Answer) -> TaskApi:
    return cast("TaskApi", FakeApi(list(answers)))


QUEUED = RemoteTask("a", "queued")
RUNNING = RemoteTask("a", "running", progress=0.5)
DONE = RemoteTask("a", "completed", progress=1)


def test_each_change_is_told_once_and_the_end_is_returned() -> None:
    seen: list[RemoteTask] = []
    time = FakeTime()
    ended = follow(
        api(QUEUED, QUEUED, RUNNING, RUNNING, DONE),
        ["a"],
        timeout_seconds=60,
        on_change=seen.append,
        clock=time.clock,
    )
    assert ended == [DONE]
    assert seen == [QUEUED, RUNNING, DONE]


def test_asking_starts_at_a_tenth_of_a_second_and_slows_down_to_two() -> None:
    time = FakeTime()
    with pytest.raises(WaitTimeoutError):
        follow(api(QUEUED), ["a"], timeout_seconds=60, clock=time.clock)
    assert time.sleeps[0] == pytest.approx(0.1)
    assert time.sleeps == sorted(time.sleeps[:-1]) + time.sleeps[-1:]
    assert max(time.sleeps) == pytest.approx(2.0)
    assert time.now == pytest.approx(160)


def test_the_end_of_time_names_the_task_its_status_and_the_way_on() -> None:
    with pytest.raises(WaitTimeoutError) as caught:
        follow(api(RUNNING), ["a"], timeout_seconds=1, clock=FakeTime().clock)
    assert "a running" in caught.value.message
    assert caught.value.hint == "it goes on: sdctl watch a"


def test_an_outage_is_outlived_for_a_minute_only() -> None:
    gone = UnreachableError("cannot reach it")
    assert follow(api(RUNNING, gone, gone, DONE), ["a"], timeout_seconds=600, clock=FakeTime().clock) == [
        DONE
    ]
    time = FakeTime()
    with pytest.raises(UnreachableError):
        follow(api(RUNNING, gone), ["a"], timeout_seconds=600, clock=time.clock)
    assert 160 < time.now < 165


@pytest.mark.parametrize("error", [ApiError("bad", status=400), ApiError("who", status=401)])
def test_a_refusal_is_no_outage(error: ApiError) -> None:
    with pytest.raises(ApiError):
        follow(api(RUNNING, error), ["a"], timeout_seconds=600, clock=FakeTime().clock)


def test_a_published_task_may_be_unknown_for_a_while() -> None:
    none = NotFoundError("no such task")
    found = follow(
        api(none, none, DONE), ["a"], timeout_seconds=60, unseen_seconds=30, clock=FakeTime().clock
    )
    assert found == [DONE]
    time = FakeTime()
    with pytest.raises(NotFoundError):
        follow(api(none), ["a"], timeout_seconds=60, unseen_seconds=30, clock=time.clock)
    assert 130 <= time.now < 133
    with pytest.raises(NotFoundError):
        follow(api(none), ["a"], timeout_seconds=60, clock=FakeTime().clock)
    with pytest.raises(NotFoundError):
        follow(api(QUEUED, none), ["a"], timeout_seconds=60, unseen_seconds=30, clock=FakeTime().clock)
