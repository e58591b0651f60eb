"""One task, stage by stage: admit and prepare (`admission`), run, then conclude: store, end, tell.

Knows the table, the bucket, the topic and the runtime's adapter, but not the queue: each method answers
with what has to become of the message. Outputs are stored under keys derived from the task, the end state
is won by one conditional write, the result is published and only then recorded as published, the message
is deleted last; so a crash between any two of these steps is harmless.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from sdctl import contract
from sdctl.task_record import Ending
from sdctl_agent.admission import Admission
from sdctl_agent.aws import StepAbandonedError
from sdctl_agent.endings import Endings, claimed_row, exhausted, failed
from sdctl_agent.errors import (
    AgentError,
    InterruptedRunError,
    PermanentError,
    RuntimeDownError,
    TransientError,
)
from sdctl_agent.job import (
    CANCELLED,
    HAND_BACK_REASONS,
    LEAVE,
    LOST,
    TIMEOUT,
    Job,
    Settlement,
    release_after,
)
from sdctl_agent.metrics import Metrics
from sdctl_agent.pool import Pool
from sdctl_agent.runtimes.base import RunResult
from sdctl_agent.steps import Clocks, Doors, Rules, Steps
from sdctl_agent.table import LostClaimError

__all__ = ["UNDECODABLE_DELAY_SECONDS", "Clocks", "Doors", "Handler", "Rules"]
log = logging.getLogger(__name__)

# A message that is no task is looked at again this much later, until the queue's redrive policy takes it.
UNDECODABLE_DELAY_SECONDS = 60
# The wait before the next attempt: this much, doubled with each attempt, and a random part on top.
RETRY_DELAY_SECONDS = 5.0
MAX_RETRY_DELAY_SECONDS = 300.0
# A claim that cannot be given up within this time runs out by itself.
RELEASE_SECONDS = 5.0


class Handler:
    """Takes one task through its life; safe to use from several threads, a job by one at a time."""

    def __init__(self, doors: Doors, rules: Rules, clocks: Clocks, metrics: Metrics, uploads: Pool) -> None:
        self._doors = doors
        self._rules = rules
        self._clocks = clocks
        self._metrics = metrics
        self._uploads = uploads
        self._steps = Steps(clocks, metrics)
        self._endings = Endings(doors, clocks, self._steps)
        self._admission = Admission(doors, rules, clocks, self._steps, self._endings)

    # -- before and at the start --------------------------------------------------------------------

    def admit(self, job: Job) -> Settlement | None:
        """Decode a message and claim its task.

        Returns:
            None when the task is this job's to run, else what becomes of the message.
        """
        try:
            return self._admission.admit(job)
        except StepAbandonedError:
            return self._given_up(job)

    def prepare(self, job: Job) -> None:
        """Fetch what the task needs and build the runtime's request.

        Raises:
            AgentError, StepAbandonedError: as `conclude` understands them.
        """
        self._admission.prepare(job)

    def announce_running(self, job: Job) -> None:
        """Publish that a task runs, once; the result's publish waits for it, so that the order is right."""
        row, told = job.row, job.announced
        if row is None or told is None:
            return
        begun = job.running_since
        started_at = self._clocks.now_ms() if begun is None else self._clocks.wall_ms(begun)
        now_running = dataclasses.replace(row, started_at=started_at)
        try:
            self._steps.of(job)("notify", lambda: self._doors.notifier.publish(now_running))
        except (StepAbandonedError, TransientError) as error:
            log.warning("start was not published: %s", error, extra={"action": "notify_running_failed"})
        finally:
            told.set()

    # -- after the runtime --------------------------------------------------------------------------

    def conclude(self, job: Job) -> Settlement:
        """Turn a job's outcome into its end, or hand it back; the one place that maps errors to states."""
        row = job.row
        if job.ran is not None and row is not None:
            waited_ms = self._clocks.wall_ms(job.ran[0]) - row.queued_at
            self._metrics.observe("queue", max(0, waited_ms) / 1000)
        try:
            if job.is_stopped():
                return self._stopped(job)
            if job.error is not None:
                raise job.error
            if job.result is None:
                raise AssertionError("a job that neither failed nor was stopped has a result")
            job.is_finishing = True
            return self._endings.end(job, self._stored(job, job.result))
        except StepAbandonedError:
            return self._given_up(job)
        except InterruptedRunError as error:
            if job.is_stopped():
                return self._stopped(job)
            # Somebody else interrupted the server: the task itself is not to blame.
            return self._retry(job, TransientError(error.message, code=error.code))
        except PermanentError as error:
            return self._fail(job, error)
        except RuntimeDownError as error:
            job.error = error
            return self._stopped(job) if job.is_stopped() else self._hand_back(job)
        except TransientError as error:
            return self._retry(job, error)

    def _stopped(self, job: Job) -> Settlement:
        """Settle a job that was stopped before its end."""
        match job.reason:
            case reason if reason == LOST:
                return LEAVE
            case reason if reason == CANCELLED:
                return self._endings.end(job, Ending(contract.CANCELLED, self._clocks.now_ms()))
            case reason if reason == TIMEOUT:
                limit = self._rules.task_timeout_seconds
                error = {"code": "timeout", "message": f"the task ran for longer than {limit:g} seconds"}
                return self._endings.end(job, failed(error, self._clocks.now_ms()))
            case _:
                return self._hand_back(job)

    def _given_up(self, job: Job) -> Settlement:
        """Settle a job whose steps were abandoned: lost, or the drain's time is over."""
        if job.reason in HAND_BACK_REASONS:
            return self._hand_back(job)
        return LEAVE

    def _stored(self, job: Job, result: RunResult) -> Ending:
        """Store outputs and answer side by side."""
        row, step, storage = claimed_row(job), self._steps.of(job), self._doors.storage

        def output(number: int) -> Callable[[], str]:
            return lambda: storage.store_output(row.id, row.prefix, number, result.outputs[number - 1], step)

        calls = [output(number) for number in range(1, len(result.outputs) + 1)]
        calls.append(lambda: storage.store_answer(row.id, row.prefix, result.answer, step))
        started = self._clocks.now()
        with self._steps.timed(job, "store"):
            *images, answer = self._uploads.map(calls)
        self._metrics.observe("store", self._clocks.now() - started)
        return Ending(contract.COMPLETED, self._clocks.now_ms(), image_url=images, output_url=answer)

    def _fail(self, job: Job, error: AgentError) -> Settlement:
        if job.is_stopped():
            return self._stopped(job)
        log.info("task failed: %s", error.message, extra={"action": "task_failed", "code": error.code})
        return self._endings.end(job, failed(error.as_error(), self._clocks.now_ms()))

    # -- back to the queue --------------------------------------------------------------------------

    def _retry(self, job: Job, error: AgentError) -> Settlement:
        """Count the attempt and try again later, or fail when there is none left."""
        if job.is_stopped():
            return self._stopped(job)
        row = claimed_row(job)
        used = row.attempts - row.retry_base
        if used >= self._rules.max_attempts:
            reason = exhausted(self._rules.max_attempts, f"{error.code}: {error.message}", error)
            return self._endings.end(job, failed(reason, self._clocks.now_ms()))
        self._metrics.count("retry")
        log.warning(
            "task is tried again: %s", error.message,
            extra={"action": "retry", "code": error.code, "attempts": row.attempts},
        )  # fmt: skip
        delay = min(RETRY_DELAY_SECONDS * 2 ** (used - 1), MAX_RETRY_DELAY_SECONDS)
        delay += self._clocks.random.uniform(0, delay / 4)
        return self._released(job, counted=True, delay_seconds=delay)

    def _hand_back(self, job: Job) -> Settlement:
        self._metrics.count("hand_back")
        if job.row is None:
            return release_after(0)
        log.info("task is handed back", extra={"action": "hand_back", "reason": job.reason or "runtime_down"})
        return self._released(job, counted=False, delay_seconds=0)

    def _released(self, job: Job, *, counted: bool, delay_seconds: float) -> Settlement:
        row = claimed_row(job)
        has_started = job.running_since is not None or row.attempts - row.retry_base > 1
        job.is_settling = True

        def release() -> None:
            self._doors.tasks.release(row, job.token, counted=counted, has_started=has_started)

        try:
            self._steps.last("release", release, RELEASE_SECONDS)
        except LostClaimError as error:
            if error.row is None or error.row.status != contract.QUEUED:
                return self._endings.follow(job, error.row)
            # Queued already: an earlier try took effect, only its answer was lost.
        except TransientError:
            return LEAVE
        return release_after(delay_seconds)
