"""Following tasks to their end by asking the API, quickly at first and then every two seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sdctl import contract
from sdctl.errors import ApiError, NotFoundError, SdctlError, TaskFailedError, WaitTimeoutError
from sdctl.polling import REAL_CLOCK, Clock, Pace, poll
from sdctl.tasks.answers import RemoteTask
from sdctl.tasks.api import TRANSIENT_STATUSES, TaskApi

PACE: Final = Pace(interval_seconds=0.1, factor=1.2, ceiling_seconds=2.0)
# A laptop that wakes up, or an API that is being replaced, must not end a watch of an hour.
OUTAGE_SECONDS: Final = 60.0


class _Watch:
    """What was last seen of each task."""

    def __init__(
        self, api: TaskApi, ids: Sequence[str], on_change: Callable[[RemoteTask], None], clock: Clock
    ) -> None:
        self._api = api
        self._ids = list(dict.fromkeys(ids))
        self._on_change = on_change
        self._clock = clock
        self.seen: dict[str, RemoteTask] = {}
        self.unseen_until = 0.0
        self._outage_since: float | None = None

    def look(self) -> list[RemoteTask] | None:
        for task_id in self._ids:
            last = self.seen.get(task_id)
            if last is not None and last.is_ended:
                continue
            task = self._get(task_id)
            if task is None:
                continue
            if last is None or task.document() != last.document():
                self._on_change(task)
            self.seen[task_id] = task
        tasks = [self.seen.get(task_id) for task_id in self._ids]
        ended = [task for task in tasks if task is not None and task.is_ended]
        return ended if len(ended) == len(tasks) else None

    def _get(self, task_id: str) -> RemoteTask | None:
        try:
            task = self._api.get(task_id)
        except NotFoundError:
            if task_id not in self.seen and self._clock.monotonic() < self.unseen_until:
                return None
            raise
        except ApiError as error:
            now = self._clock.monotonic()
            self._outage_since = now if self._outage_since is None else self._outage_since
            is_passing = error.code == "unreachable" or error.status in TRANSIENT_STATUSES
            # Whoever never got an answer has a wrong address rather than an outage.
            if not self.seen or not is_passing or now - self._outage_since > OUTAGE_SECONDS:
                raise
            return None
        self._outage_since = None
        return task

    def state(self) -> str:
        states = (
            f"{task_id} {self.seen[task_id].status if task_id in self.seen else 'not seen'}"
            for task_id in self._ids
            if task_id not in self.seen or not self.seen[task_id].is_ended
        )
        return ", ".join(states)


def follow(
    api: TaskApi,
    ids: Sequence[str],
    *,
    timeout_seconds: float,
    on_change: Callable[[RemoteTask], None] = lambda _: None,
    unseen_seconds: float = 0.0,
    clock: Clock = REAL_CLOCK,
) -> list[RemoteTask]:
    """Ask for tasks until all have ended.

    Args:
        api: the task API.
        ids: which tasks.
        timeout_seconds: from now.
        on_change: is told of a task when it is first seen and whenever it changes, its end included.
        unseen_seconds: for so long a task may be unknown: one that was published to the topic directly
            has no row before an agent takes it.
        clock: time to use.

    Returns:
        The ended tasks, in the order of `ids` without repeats.

    Raises:
        NotFoundError: there is no such task.
        WaitTimeoutError: the time is over; the tasks go on.
    """
    watch = _Watch(api, ids, on_change, clock)
    watch.unseen_until = clock.monotonic() + unseen_seconds
    what = f"task {ids[0]}" if len(ids) == 1 else f"{len(ids)} tasks"
    try:
        return poll(
            watch.look, awaited=f"{what} to end", timeout_seconds=timeout_seconds, pace=PACE,
            state=watch.state, clock=clock,
        )  # fmt: skip
    except WaitTimeoutError as error:
        error.hint = f"it goes on: sdctl watch {' '.join(ids)}"
        raise


def require_completed(tasks: Sequence[RemoteTask]) -> None:
    """Raise unless every task has completed.

    Raises:
        TaskFailedError: naming each that has not, with its reason.
    """
    failed = [task for task in tasks if task.status != contract.COMPLETED]
    if failed:
        raise failure_of(failed)


def failure_of(failed: Sequence[RemoteTask]) -> SdctlError:
    """Word the error of tasks that ended otherwise than completed."""
    lines = [f"task {task.id} is {task.status}: {task.reason}" for task in failed]
    return TaskFailedError("\n".join(lines), hint=f"sdctl tasks retry {' '.join(task.id for task in failed)}")
