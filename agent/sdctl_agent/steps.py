"""What every stage of a task shares: the doors to the outside, the rules, the clocks, and how a step is made.

A step is one call to S3, SNS or the table: it is repeated by itself until it succeeds or the task is no
longer this agent's, and never repeats what came before it.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sdctl_agent.aws import STEP_SECONDS, retry_step
from sdctl_agent.job import Job
from sdctl_agent.metrics import Metrics
from sdctl_agent.notify import Notifier
from sdctl_agent.runtimes.base import InputFetcher, Runtime
from sdctl_agent.storage import Step, Storage
from sdctl_agent.table import Tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about tasks."""

    runtime_name: str
    max_attempts: int
    task_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Doors:
    """The outside systems that a task goes through."""

    tasks: Tasks
    storage: Storage
    notifier: Notifier
    runtime: Runtime
    fetch: InputFetcher


@dataclass(frozen=True, slots=True)
class Clocks:
    """Time and randomness: seconds of a monotonic clock, milliseconds of wall time, and a random source."""

    now: Callable[[], float]
    now_ms: Callable[[], int]
    random: random.Random

    def wall_ms(self, moment: float) -> int:
        """Return the wall time of a past moment of the monotonic clock."""
        return self.now_ms() - round((self.now() - moment) * 1000)


class Steps:
    """Makes steps, and notes how long the parts of a task took."""

    def __init__(self, clocks: Clocks, metrics: Metrics) -> None:
        self._now = clocks.now
        self.metrics = metrics

    def of(self, job: Job) -> Step:
        """Return how a step of this job is made: until it succeeds or the job is abandoned."""

        def step(name: str, call: Callable[[], Any]) -> Any:
            return self._retried(name, call, job.abandoned, STEP_SECONDS)

        return step

    def last(self, name: str, call: Callable[[], Any], limit_seconds: float) -> Any:
        """Make a step that the drain does not abandon, and that is short for that reason."""
        return self._retried(name, call, threading.Event(), limit_seconds)

    @contextmanager
    def timed(self, job: Job, name: str) -> Iterator[None]:
        """Note from when to when the body worked on a job."""
        start = self._now()
        try:
            yield
        finally:
            job.steps.append((name, start, self._now()))

    def _retried(
        self, name: str, call: Callable[[], Any], abandoned: threading.Event, limit_seconds: float
    ) -> Any:
        return retry_step(
            name, call, abandoned=abandoned, now=self._now, on_error=self._note, limit_seconds=limit_seconds
        )

    def _note(self, name: str, code: str) -> None:
        self.metrics.count("step_error")
        log.warning("step %s failed: %s", name, code, extra={"action": "step_error", "step": name})
