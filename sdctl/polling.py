"""The one wait loop: probe, deadline, interval; the clock is an argument, so no test waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import uniform
from typing import TypeVar

from sdctl.errors import WaitTimeoutError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as an argument: seconds that never run backwards, a sleep, and the jitter between probes."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = uniform


REAL_CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to ask: the first interval, its growth and its ceiling, in seconds; 10 % jitter."""

    interval_seconds: float = 1.0
    factor: float = 1.5
    ceiling_seconds: float = 5.0


def poll(
    probe: Callable[[], T | None],
    *,
    awaited: str,
    timeout_seconds: float,
    pace: Pace | None = None,
    state: Callable[[], str] | None = None,
    clock: Clock = REAL_CLOCK,
) -> T:
    """Ask until `probe` returns something other than None.

    Args:
        probe: returns the result, or None for "not yet"; what it raises ends the wait.
        awaited: what is waited for, for the error.
        timeout_seconds: from now; the probe runs at least once, and once more at the deadline.
        pace: intervals between probes.
        state: describes what was last seen, for the error.
        clock: time to use.

    Raises:
        WaitTimeoutError: the deadline passed; says what was awaited and the last state seen.
    """
    pace = pace or Pace()
    deadline = clock.monotonic() + timeout_seconds
    interval = pace.interval_seconds
    while True:
        result = probe()
        if result is not None:
            return result
        left = deadline - clock.monotonic()
        if left <= 0:
            seen = f"; last seen: {state()}" if state else ""
            raise WaitTimeoutError(f"gave up after {timeout_seconds:g} s waiting for {awaited}{seen}")
        clock.sleep(min(left, interval * clock.uniform(0.9, 1.1)))
        interval = min(pace.ceiling_seconds, interval * pace.factor)
