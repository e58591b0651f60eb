"""The one wait loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from sdctl.errors import WaitTimeoutError
from sdctl.polling import Clock, Pace, poll


@dataclass
class FakeTime:
    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, sleep=self.sleep, uniform=lambda low, high: (low + high) / 2)


def test_a_result_that_is_there_needs_no_sleep() -> None:
    time = FakeTime()
    assert poll(lambda: 7, awaited="it", timeout_seconds=0, clock=time.clock()) == 7
    assert time.slept == []


def test_intervals_grow_to_their_ceiling() -> None:
    time, answers = FakeTime(), iter([None, None, None, None, "done"])
    pace = Pace(interval_seconds=1, factor=2, ceiling_seconds=3)
    assert (
        poll(lambda: next(answers), awaited="it", timeout_seconds=99, pace=pace, clock=time.clock()) == "done"
    )
    assert time.slept == [1, 2, 3, 3]


def test_a_falsy_result_is_a_result() -> None:
    assert poll(lambda: 0, awaited="it", timeout_seconds=0) == 0


def test_the_deadline_is_asked_at_once_more_and_named() -> None:
    time, asked = FakeTime(), []
    pace = Pace(interval_seconds=4, factor=1, ceiling_seconds=4)
    with pytest.raises(WaitTimeoutError) as caught:
        poll(
            lambda: asked.append(time.now), awaited="the stack x", timeout_seconds=10, pace=pace,
            state=lambda: "CREATE_IN_PROGRESS", clock=time.clock(),
        )  # fmt: skip
    assert asked == [0, 4, 8, 10]
    assert caught.value.message == "gave up after 10 s waiting for the stack x; last seen: CREATE_IN_PROGRESS"
    assert caught.value.exit_code == 7


def test_what_the_probe_raises_ends_the_wait() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        poll(fail, awaited="it", timeout_seconds=5)
