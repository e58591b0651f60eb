"""One message on its way through the agent, and the few things that its threads have to agree on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdctl.contract import Task
from sdctl.task_record import Row
from sdctl_agent.errors import AgentError
from sdctl_agent.runtimes.base import Prepared, Progress, Run, RunResult

# Why a job was stopped before its own end.
CANCELLED = "cancelled"  # the user asked for it
TIMEOUT = "timeout"  # it ran for longer than it may
DRAIN = "drain"  # the agent has to go: hand it back
YIELD = "yield"  # another agent would run it sooner: hand it back
RUNTIME_DOWN = "runtime_down"  # the runtime went away before it started: hand it back
LOST = "lost"  # the lease or the message is someone else's: touch nothing
HAND_BACK_REASONS = frozenset({DRAIN, YIELD, RUNTIME_DOWN})


@dataclass(frozen=True, slots=True)
class Message:
    """One received message. `sent_ms` is wall time, `received_at` of the monotonic clock, in seconds."""

    id: str
    receipt: str
    body: str = field(repr=False)
    receive_count: int
    sent_ms: int
    received_at: float
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of a message: `delete`, `release` after `delay_seconds`, `leave`, or `set_aside`."""

    action: str
    delay_seconds: int = 0


DELETE = Settlement("delete")
LEAVE = Settlement("leave")
SET_ASIDE = Settlement("set_aside")


def release_after(seconds: float) -> Settlement:
    """Make the message visible again after `seconds`, at once for 0."""
    return Settlement("release", max(0, min(int(seconds + 0.999), 43_000)))


class Job:
    """A held message with its claim and its run.

    The heartbeat, the slots and the drain all may stop a job; the first reason counts, except that a
    lost lease overrides any other.
    """

    def __init__(self, message: Message, token: str) -> None:
        self.message = message
        self.token = token
        self.task: Task | None = None
        self.row: Row | None = None
        self.prepared: Prepared | None = None
        self.run: Run | None = None
        self.result: RunResult | None = None
        self.error: AgentError | None = None
        self.announced: threading.Event | None = None  # set when `running` has been published
        self.is_admitted = False  # decoded and claimed, or found to be nothing of ours
        self.is_finishing = False  # off the runtime: what is left is storing and telling
        self.is_settling = False  # its claim is being given up by the agent itself
        # Kept by the heartbeat, of the monotonic clock.
        self.visible_until = message.received_at
        self.lease_until = 0.0
        self.beat_at = message.received_at
        self.watched_at = message.received_at
        self.reported = Progress()
        self.has_told_start = False  # the table has the time at which the runtime began
        # Of the monotonic clock: since when the runtime works on it, from when to when it did, and the
        # agent's own steps as (name, start, end).
        self.running_since: float | None = None
        self.ran: tuple[float, float] | None = None
        self.steps: list[tuple[str, float, float]] = []
        self.end_status = ""  # the end that was told, by this agent
        # Set when nothing more may be done for the task, not even a retry of a storing step.
        self.abandoned = threading.Event()
        self._reason = ""
        self._stopped_at: float | None = None
        self._lock = threading.Lock()
        self._on_stop: Callable[[Job], None] | None = None

    @property
    def task_id(self) -> str:
        """Return the task's id, or an empty string while it is unknown."""
        return self.task.id if self.task is not None else ""

    @property
    def reason(self) -> str:
        """Return why the job was stopped, or an empty string."""
        return self._reason

    @property
    def stopped_at(self) -> float | None:
        """Return when it was stopped, of the monotonic clock."""
        return self._stopped_at

    def is_stopped(self) -> bool:
        """Tell whether there is a reason; a call, since another thread may give one at any time."""
        return bool(self._reason)

    def when_stopped(self, callback: Callable[[Job], None]) -> None:
        """Have `callback` called once it is stopped: the worker's way to interrupt the run."""
        self._on_stop = callback

    def stop(self, reason: str, now: float) -> bool:
        """Stop the job for `reason`; tell whether that reason was taken."""
        with self._lock:
            if self._reason == LOST or (self._reason and reason != LOST):
                return False
            self._reason = reason
            if self._stopped_at is None:
                self._stopped_at = now
        if reason == LOST:
            self.abandoned.set()
        if self._on_stop is not None:
            self._on_stop(self)
        return True
