"""What the worker's threads share: which jobs are held, waiting, on the runtime, or finishing.

All state is behind one condition. Decides how many messages to receive next, and which job to start next;
does nothing outside the process.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sdctl_agent import affinity
from sdctl_agent.estimator import MAX_DEPTH, WINDOW_SECONDS, YIELD_SECONDS, Estimator
from sdctl_agent.job import Job

LONG_POLL_SECONDS = 20
# While this many tasks are being stored and told, no further one is started: S3 is behind, or down.
MAX_FINISHING = 4
MAX_HELD = 1 + MAX_DEPTH + MAX_FINISHING
# With more input bytes than this waiting, nothing further is received.
MAX_WAITING_BYTES = 64 * 1024 * 1024
# How often the receiving thread looks again while the running task is not about to end.
LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Appetite:
    """How many messages to receive and how long to wait for the first; 0: look again after a pause."""

    limit: int
    wait_seconds: float


class Board:
    """The jobs of one agent by where they are."""

    def __init__(self, now: Callable[[], float], *, has_affinity: bool = False) -> None:
        self._now = now
        self._has_affinity = has_affinity
        self._changed = threading.Condition()
        self._held: set[Job] = set()
        self._waiting: list[Job] = []  # received, not yet started; in order of receipt
        self._ready: set[Job] = set()  # those of them that could be started
        self._started: list[Job] = []  # on the runtime; the first one runs, the others are queued there
        self._first_since = 0.0
        self._busy_seconds = 0.0
        self._finishing = 0
        self._passed_over = 0
        self._is_closed = False
        self.estimator = Estimator()

    # -- a job's way --------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Take in a received job."""
        with self._changed:
            self._held.add(job)
            self._waiting.append(job)
            self._changed.notify_all()

    def ready(self, job: Job) -> bool:
        """Note that a job can be started; False when it has been taken off meanwhile."""
        with self._changed:
            if job not in self._waiting:
                return False
            self._ready.add(job)
            self.estimator.input_ready(self._now() - job.message.received_at)
            self._changed.notify_all()
            return True

    def withdraw(self, job: Job) -> bool:
        """Take a job that was not started off the list; False when it is not there (any more)."""
        with self._changed:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            self._ready.discard(job)
            self._changed.notify_all()
            return True

    def take(self, loaded_checkpoint: Callable[[], str], *, wait: bool = True) -> Job | None:
        """Take a job that can be started, waiting for one if asked to; None once the board is closed."""
        with self._changed:
            while not self._is_closed:
                ready = [job for job in self._waiting if job in self._ready]
                if ready and self._finishing < MAX_FINISHING:
                    job = ready[self._choice(ready, loaded_checkpoint)]
                    self._waiting.remove(job)
                    self._ready.discard(job)
                    self._started.append(job)  # already, so that nothing is received in between
                    self._first_since = self._now() if len(self._started) == 1 else self._first_since
                    return job
                if not wait:
                    return None
                self._changed.wait()
            return None

    def _choice(self, ready: list[Job], loaded_checkpoint: Callable[[], str]) -> int:
        if not self._has_affinity or len(ready) == 1:
            return 0
        checkpoints = [job.prepared.checkpoint if job.prepared else "" for job in ready]
        index = affinity.choose(checkpoints, loaded_checkpoint(), self._passed_over)
        self._passed_over = self._passed_over + 1 if index else 0
        return index

    def started(self, job: Job) -> None:
        """Note that the runtime has accepted a job that was taken."""
        with self._changed:
            if self._started and self._started[0] is job:
                self._first_since = job.running_since = self._now()
            self._changed.notify_all()

    def running_seconds(self, job: Job) -> float:
        """Return for how long a started job has been the first one on the runtime."""
        with self._changed:
            is_first = bool(self._started) and self._started[0] is job
            return self._now() - self._first_since if is_first else 0.0

    def finishing(self, job: Job) -> float:
        """Note that a job left the runtime, or never got there; return the seconds it ran."""
        with self._changed:
            seconds = 0.0
            if job in self._started:
                if self._started[0] is job:
                    now = self._now()
                    seconds = now - self._first_since
                    job.ran = (self._first_since, now)
                    self._busy_seconds += seconds
                    self._first_since = now
                    if len(self._started) > 1:
                        self._started[1].running_since = now
                    if job.error is None and not job.is_stopped():
                        self.estimator.task_ended(seconds)
                self._started.remove(job)
            self._finishing += 1
            self._changed.notify_all()
            return seconds

    def drop(self, job: Job, *, was_finishing: bool) -> None:
        """Forget a settled job."""
        with self._changed:
            self._held.discard(job)
            self._finishing -= was_finishing
            self._changed.notify_all()

    def busy_seconds(self) -> float:
        """Return for how long a task was on the runtime so far, up to this moment."""
        with self._changed:
            return self._busy_seconds + (self._now() - self._first_since if self._started else 0.0)

    # -- questions ----------------------------------------------------------------------------------

    def held(self) -> list[Job]:
        """List every job that is not settled."""
        with self._changed:
            return list(self._held)

    def behind(self) -> list[Job]:
        """List the jobs that wait behind the running one, here or in the server's queue."""
        with self._changed:
            return [*self._waiting, *self._started[1:]]

    def is_waiting(self, job: Job) -> bool:
        """Tell whether a job was not started yet."""
        with self._changed:
            return job in self._waiting

    def is_idle(self) -> bool:
        """Tell whether nothing is held."""
        with self._changed:
            return not self._held

    def has_slow_task(self) -> bool:
        """Tell whether the running task keeps others waiting that another agent could run."""
        with self._changed:
            remaining = self._remaining()
            return remaining is not None and remaining > YIELD_SECONDS and bool(self._started)

    def appetite(self) -> Appetite:
        """Decide how many messages to receive now."""
        with self._changed:
            waiting = len(self._waiting) + max(0, len(self._started) - 1)
            room = min(MAX_HELD - len(self._held), 10)
            if self._waiting_bytes() > MAX_WAITING_BYTES:
                room = 0
            if not self._started:
                limit = min(self._capacity_of_idle() - waiting, room)
                return Appetite(limit, LONG_POLL_SECONDS if not waiting else 1) if limit > 0 else _PAUSE
            remaining = self._remaining()
            if remaining is None:
                return _PAUSE
            if remaining > WINDOW_SECONDS:
                return Appetite(0, min(remaining - WINDOW_SECONDS, LOOK_SECONDS))
            limit = min(self._depth() - waiting, room)
            return Appetite(limit, max(1, math.ceil(remaining))) if limit > 0 else _PAUSE

    def _capacity_of_idle(self) -> int:
        quick = self.estimator.task_seconds is not None and self.estimator.task_seconds < WINDOW_SECONDS
        # The first message wakes one idle agent only; the others that wait there may be for other agents.
        return 1 + self._depth() if self._waiting and quick else 1

    def _depth(self) -> int:
        return MAX_DEPTH if self._has_affinity else self.estimator.depth()

    def _remaining(self) -> float | None:
        """Expect how long the running task still needs."""
        if not self._started:
            return None
        run = self._started[0].run
        progress = run.progress().value if run is not None else None
        return self.estimator.remaining(self._now() - self._first_since, progress)

    def _waiting_bytes(self) -> int:
        return sum(job.prepared.held_bytes for job in self._waiting if job.prepared is not None)

    # -- waiting ------------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Wait for a change, at most `seconds`."""
        with self._changed:
            if not self._is_closed:
                self._changed.wait(seconds)

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until nothing is held, at most `seconds`; tell whether that came."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, seconds)

    def close(self) -> None:
        """Start nothing more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


_PAUSE = Appetite(0, LOOK_SECONDS)
