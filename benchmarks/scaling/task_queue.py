"""The queue: what waits, what is in flight, and what comes back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .choices import Agent
from .events import Events


@dataclass(slots=True, eq=False)
class Task:
    """One task and its message; `service_seconds` is what it takes on a GPU."""

    submitted: float
    service_seconds: float
    is_waiting: bool = False
    is_deleted: bool = False
    receipt: int = 0
    done_at: float | None = None


@dataclass(slots=True)
class TaskQueue:
    """A standard queue whose messages come back when nobody keeps them invisible."""

    events: Events
    agent: Agent
    on_arrival: Callable[[], None] = lambda: None
    waiting: int = 0
    in_flight: int = 0
    _order: deque[Task] = field(default_factory=deque)

    def send(self, task: Task) -> None:
        """Let a task wait, a new one or one that comes back."""
        task.is_waiting = True
        self.waiting += 1
        self._order.append(task)
        self.on_arrival()

    def receive(self) -> Task | None:
        """Take the oldest waiting task."""
        while self._order:
            task = self._order.popleft()
            if task.is_deleted:
                continue
            task.is_waiting = False
            task.receipt += 1
            self.waiting -= 1
            self.in_flight += 1
            if not self.agent.heartbeats:
                self._comes_back(task, self.agent.visibility_seconds)
            return task
        return None

    def release(self, task: Task) -> None:
        """Hand a task back at once, unless it has come back, or was deleted, meanwhile."""
        if not task.is_deleted and not task.is_waiting:
            self.in_flight -= 1
            self.send(task)

    def delete(self, task: Task) -> bool:
        """Delete a task; returns whether it was still there."""
        if task.is_deleted:
            return False
        task.is_deleted = True
        if task.is_waiting:
            self.waiting -= 1
        else:
            self.in_flight -= 1
        return True

    def leave(self, task: Task) -> None:
        """Stop caring for a task, as an agent does that dies; on average half a heartbeat was gone."""
        if self.agent.heartbeats:
            self._comes_back(task, self.agent.visibility_seconds - self.agent.heartbeat_seconds / 2)

    def _comes_back(self, task: Task, seconds: float) -> None:
        receipt = task.receipt

        def release() -> None:
            if task.receipt == receipt:
                self.release(task)

        self.events.after(seconds, release)
