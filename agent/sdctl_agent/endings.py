"""How a task ends: its end state is won by one conditional write, then told, then recorded as told.

Each method answers with what has to become of the message. A crash between any two of these steps is
harmless: whoever gets the message next finds out from the row how far it went.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from sdctl import contract
from sdctl.contract import Task
from sdctl.task_record import Ending, Row
from sdctl_agent.aws import StepAbandonedError
from sdctl_agent.errors import AgentError, TransientError
from sdctl_agent.job import DELETE, LEAVE, Job, Settlement
from sdctl_agent.steps import Clocks, Doors, Steps
from sdctl_agent.table import LostClaimError

log = logging.getLogger(__name__)


class Endings:
    """Ends tasks; safe to use from several threads, a job by one at a time."""

    def __init__(self, doors: Doors, clocks: Clocks, steps: Steps) -> None:
        self._doors = doors
        self._clocks = clocks
        self._steps = steps

    def end(self, job: Job, ending: Ending) -> Settlement:
        """End a claimed job."""
        if job.ran is not None:
            start, end = job.ran
            run_ms, started_at = round((end - start) * 1000), self._clocks.wall_ms(start)
            ending = dataclasses.replace(ending, started_at=started_at, run_ms=run_ms)
        else:
            ending = dataclasses.replace(ending, run_ms=0)
        return self.end_from(job, claimed_row(job), ending)

    def end_from(self, job: Job, row: Row, ending: Ending) -> Settlement:
        """Win the end state, or follow whoever did; then publish, record, delete."""
        job.is_settling = True
        try:
            ended = self._steps.of(job)("end", lambda: self._doors.tasks.end(row, ending))
        except LostClaimError as error:
            return self.follow(job, error.row)
        except StepAbandonedError:
            # Whether the last try was carried out is not known: the next claim finds out.
            return LEAVE
        return self.announce(job, ended)

    def end_unseen(self, job: Job, task: Task, ending: Ending, sent_ms: int) -> Settlement:
        """End a direct publish that has no row and must not run at all."""
        try:
            row = self._steps.of(job)("end", lambda: self._doors.tasks.end_unseen(task, ending, sent_ms))
        except LostClaimError as error:
            return self.follow(job, error.row)
        return self.announce(job, row)

    def follow(self, job: Job, row: Row | None) -> Settlement:
        """Act on a row that somebody else (or an earlier try of ours) has changed."""
        if row is not None and row.is_ended:
            return DELETE if row.notified else self.announce(job, row)
        return LEAVE

    def announce(self, job: Job, row: Row) -> Settlement:
        """Publish an end state and record that."""
        job.is_settling = True
        if job.announced is not None:
            job.announced.wait(contract.VISIBILITY_SECONDS)
        step = self._steps.of(job)
        try:
            with self._steps.timed(job, "notify"):
                step("notify", lambda: self._doors.notifier.publish(row))
                step("notified", lambda: self._doors.tasks.notified(row))
        except (StepAbandonedError, TransientError):
            return LEAVE  # the end stands; the next delivery or the sweep publishes it
        job.end_status = row.status
        self._steps.metrics.task_ended(row.status)
        log.info(
            "task %s", row.status,
            extra={"action": "task_ended", "status": row.status, "attempts": row.attempts},
        )  # fmt: skip
        return DELETE


def claimed_row(job: Job) -> Row:
    """Return the row of a job that was claimed."""
    if job.row is None:
        raise AssertionError("only a claimed job has a row")
    return job.row


def failed(error: dict[str, Any], now_ms: int) -> Ending:
    """Make the end of a task that cannot succeed."""
    return Ending(contract.FAILED, now_ms, error=error)


def expired(now_ms: int) -> Ending:
    """Make the end of a task that was not started in time."""
    error = {"code": "expired", "message": "the task was not started by its deadline"}
    return Ending(contract.EXPIRED, now_ms, error=error)


def exhausted(attempts: int, last: str, error: AgentError | None = None) -> dict[str, Any]:
    """Return the `error` object of a task that was tried `attempts` times; `last` is how that ended."""
    node = {"node": error.node} if error is not None and error.node else {}
    return {"code": "attempts_exhausted", "message": f"tried {attempts} times; {last}", **node}


def invalid_task(task: Task) -> dict[str, Any]:
    """Return the `error` object of a task that breaks the contract, every problem named."""
    message = "; ".join(f"{problem.path}: {problem.message}" for problem in task.problems)
    return {"code": "invalid_task", "message": message}
