"""One task, step by step: admit (decode, claim), prepare, conclude (store, end, notify).

Knows the table, the bucket, the topic and the runtime's adapter, but not the queue: each method answers
with what has to become of the message. The order of the last steps makes a crash between any two of them
harmless: outputs are stored under keys derived from the task, the end state is won by one conditional
write, the result is published and only then recorded as published, the message is deleted last.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl.task_record import Ending, Row
from sdctl_agent.aws import StepAbandonedError, retry_step
from sdctl_agent.errors import (
    AgentError,
    InterruptedRunError,
    PermanentError,
    RuntimeDownError,
    TransientError,
)
from sdctl_agent.job import (
    CANCELLED,
    DELETE,
    HAND_BACK_REASONS,
    LEAVE,
    LOST,
    SET_ASIDE,
    TIMEOUT,
    Job,
    Message,
    Settlement,
    release_after,
)
from sdctl_agent.metrics import Metrics
from sdctl_agent.notify import Notifier
from sdctl_agent.pool import Pool
from sdctl_agent.runtimes.base import InputFetcher, RunResult, Runtime
from sdctl_agent.storage import Step, Storage
from sdctl_agent.table import LostClaimError, Refused, Tasks, Verdict, judge

log = logging.getLogger(__name__)

# A message that is no task is looked at again this much later, until the queue's redrive policy takes it.
UNDECODABLE_DELAY_SECONDS = 60
# The wait before the next attempt: this much, doubled with each attempt, and a random part on top.
RETRY_DELAY_SECONDS = 5.0
MAX_RETRY_DELAY_SECONDS = 300.0
# How often a claim is tried again when the row changed between the write and the look at what stood there.
CLAIM_TRIES = 5


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about tasks."""

    runtime_name: str
    max_attempts: int
    task_timeout_seconds: float
    notify_running: bool = False


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


class Handler:
    """Takes one task through its life; safe to use from several threads, a job by one at a time."""

    def __init__(self, doors: Doors, rules: Rules, clocks: Clocks, metrics: Metrics, uploads: Pool) -> None:
        self._doors = doors
        self._rules = rules
        self._clocks = clocks
        self._metrics = metrics
        self._uploads = uploads

    # -- before the runtime -------------------------------------------------------------------------

    def admit(self, job: Job) -> Settlement | None:
        """Decode a message and claim its task.

        Returns:
            None when the task is this job's to run, else what becomes of the message.
        """
        try:
            job.task = self.decode(job.message)
        except contract.UndecodableMessageError as error:
            self._metrics.count("undecodable")
            log.warning("a message holds no task: %s", error, extra={"action": "undecodable"})
            return SET_ASIDE
        try:
            return self._claim(job, job.task)
        except StepAbandonedError:
            return self._given_up(job)

    def decode(self, message: Message) -> Task:
        """Read the task of a message. Raises `UndecodableMessageError`."""
        return contract.parse_message(
            message.body,
            runtime=self._rules.runtime_name,
            task_types=sorted(self._doors.runtime.task_types),
            message_id=message.id,
        )

    def _claim(self, job: Job, task: Task) -> Settlement | None:
        tasks, step = self._doors.tasks, self._step(job)
        count, sent_ms = job.message.receive_count, self._sent_ms(job)
        for _ in range(CLAIM_TRIES):
            before = self._clocks.now()
            claimed: Row | Refused = step("claim", partial(tasks.claim, task.id, job.token, count))
            if isinstance(claimed, Refused) and claimed.row is None:
                settlement = self._settle_unseen(job, task)
                if settlement is not None:
                    return settlement
                kept = self._kept(job, task)
                claimed = step("claim", partial(tasks.claim_unseen, kept, job.token, sent_ms, count))
            if isinstance(claimed, Row):
                job.lease_until = before + contract.VISIBILITY_SECONDS
                job.row = claimed
                return self._admitted(job, claimed)
            if claimed.row is not None:
                settlement = self._refused(job, claimed.row)
                if settlement is not None:
                    return settlement
        return release_after(contract.HEARTBEAT_SECONDS)

    def _sent_ms(self, job: Job) -> int:
        return job.message.sent_ms or self._clocks.now_ms()

    def _settle_unseen(self, job: Job, task: Task) -> Settlement | None:
        """End a direct publish that must not run at all."""
        sent_ms = self._sent_ms(job)
        ending = None
        if task.problems:
            ending = self._failed(invalid_task(task))
        elif job.message.receive_count == 1 and is_overdue(task, sent_ms, self._clocks.now_ms()):
            ending = self._expired()
        if ending is None:
            return None
        try:
            row = self._step(job)("end", lambda: self._doors.tasks.end_unseen(task, ending, sent_ms))
        except LostClaimError as error:
            return self._follow(job, error.row)
        return self._announce(job, row)

    def _kept(self, job: Job, task: Task) -> Task:
        """Put the content of a direct publish where a retry finds it, if it is too large for the row."""
        if not self._doors.tasks.is_shared or task.pointer is not None:
            return task
        if len(task_record.pack_body(task.content)) <= task_record.INLINE_BODY_BYTES:
            return task
        pointer = self._doors.storage.store_content(task, self._step(job))
        return dataclasses.replace(task, pointer=pointer)

    def _admitted(self, job: Job, row: Row) -> Settlement | None:
        if row.attempts - row.retry_base > self._rules.max_attempts:
            log.warning("attempts are exhausted", extra={"action": "exhausted", "attempts": row.attempts})
            return self._end(job, self._failed(self._exhausted("it was interrupted each time")))
        if job.task is not None and job.task.problems:
            return self._end(job, self._failed(invalid_task(job.task)))
        self._metrics.observe("queue", max(0, (row.started_at or 0) - row.submitted_at) / 1000)
        return None

    def _refused(self, job: Job, row: Row) -> Settlement | None:
        """Act on a claim that was not granted; None: try again."""
        now_ms = self._clocks.now_ms()
        verdict = judge(row, now_ms)
        log.info("claim refused: %s", verdict.value, extra={"action": "claim_refused", "status": row.status})
        match verdict:
            case Verdict.DELETE:
                return DELETE
            case Verdict.ANNOUNCE:
                return self._announce(job, row)
            case Verdict.LEAVE:
                return release_after((row.claim_until - now_ms) / 1000 + 1)
            case Verdict.CANCEL:
                return self._end_from(job, row, Ending(contract.CANCELLED, now_ms))
            case Verdict.EXPIRE:
                return self._end_from(job, row, self._expired())
            case Verdict.AGAIN:
                return None

    def prepare(self, job: Job) -> None:
        """Fetch what the task needs and build the runtime's request.

        Raises:
            AgentError, StepAbandonedError: as `conclude` understands them.
        """
        task = job.task
        if task is None:
            raise AssertionError("a job is admitted before it is prepared")
        if task.pointer is not None:
            content = self._doors.storage.read_content(task.pointer, self._step(job))
            problems = contract.workflow_problems(content) if task.tasktype == "pipeline" else []
            if problems:
                raise PermanentError(f"content: {'; '.join(problems)}")
            job.task = task = dataclasses.replace(task, content=content)
        job.prepared = self._doors.runtime.prepare(task, self._doors.fetch)

    def announce_running(self, job: Job) -> None:
        """Publish that a task runs, once; the result's publish waits for it, so that the order is right."""
        row, told = job.row, job.announced
        if row is None or told is None:
            return
        try:
            self._step(job)("notify", lambda: self._doors.notifier.publish(row))
        except (StepAbandonedError, TransientError) as error:
            log.warning("start was not published: %s", error, extra={"action": "notify_running_failed"})
        finally:
            told.set()

    # -- after the runtime --------------------------------------------------------------------------

    def conclude(self, job: Job) -> Settlement:
        """Turn a job's outcome into its end, or hand it back; the one place that maps errors to states."""
        try:
            if job.is_stopped():
                return self._stopped(job)
            if job.error is not None:
                raise job.error
            if job.result is None:
                raise AssertionError("a job that neither failed nor was stopped has a result")
            job.is_finishing = True
            started = self._clocks.now()
            ending = self._stored(job, job.result)
            self._metrics.observe("store", self._clocks.now() - started)
            return self._end(job, ending)
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
                return self._end(job, Ending(contract.CANCELLED, self._clocks.now_ms()))
            case reason if reason == TIMEOUT:
                limit = self._rules.task_timeout_seconds
                message = f"the task ran for longer than {limit:g} seconds"
                return self._end(job, self._failed({"code": "timeout", "message": message}))
            case _:
                return self._hand_back(job)

    def _given_up(self, job: Job) -> Settlement:
        """Settle a job whose steps were abandoned: lost, or the drain's time is over."""
        if job.reason in HAND_BACK_REASONS:
            return self._hand_back(job)
        return LEAVE

    def _stored(self, job: Job, result: RunResult) -> Ending:
        """Store outputs and answer side by side."""
        row, step, storage = _claimed(job), self._step(job), self._doors.storage

        def output(number: int) -> Callable[[], str]:
            return lambda: storage.store_output(row.id, row.prefix, number, result.outputs[number - 1], step)

        calls = [output(number) for number in range(1, len(result.outputs) + 1)]
        calls.append(lambda: storage.store_answer(row.id, row.prefix, result.answer, step))
        *images, answer = self._uploads.map(calls)
        return Ending(contract.COMPLETED, self._clocks.now_ms(), image_url=images, output_url=answer)

    def _fail(self, job: Job, error: AgentError) -> Settlement:
        if job.is_stopped():
            return self._stopped(job)
        log.info("task failed: %s", error.message, extra={"action": "task_failed", "code": error.code})
        return self._end(job, self._failed(error.as_error()))

    def _retry(self, job: Job, error: AgentError) -> Settlement:
        """Count the attempt and try again later, or fail when there is none left."""
        if job.is_stopped():
            return self._stopped(job)
        row = _claimed(job)
        used = row.attempts - row.retry_base
        if used >= self._rules.max_attempts:
            return self._end(job, self._failed(self._exhausted(f"{error.code}: {error.message}", error)))
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
        row = _claimed(job)
        job.is_settling = True
        try:
            # Not abandoned with the drain's deadline, but short: without it the lease runs out by itself.
            retry_step(
                "release",
                lambda: self._doors.tasks.release(row.id, job.token, row.attempts, counted=counted),
                abandoned=threading.Event(),
                now=self._clocks.now,
                on_error=self._step_error,
                limit_seconds=5.0,
            )
        except LostClaimError as error:
            return LEAVE if error.row is None else self._follow(job, error.row)
        except TransientError:
            return LEAVE
        return release_after(delay_seconds)

    # -- ends ---------------------------------------------------------------------------------------

    def _failed(self, error: dict[str, Any]) -> Ending:
        return Ending(contract.FAILED, self._clocks.now_ms(), error=error)

    def _expired(self) -> Ending:
        error = {"code": "expired", "message": "the task was not started by its deadline"}
        return Ending(contract.EXPIRED, self._clocks.now_ms(), error=error)

    def _exhausted(self, last: str, error: AgentError | None = None) -> dict[str, Any]:
        message = f"tried {self._rules.max_attempts} times; {last}"
        node = {"node": error.node} if error is not None and error.node else {}
        return {"code": "attempts_exhausted", "message": message, **node}

    def _end(self, job: Job, ending: Ending) -> Settlement:
        return self._end_from(job, _claimed(job), ending)

    def _end_from(self, job: Job, row: Row, ending: Ending) -> Settlement:
        """Win the end state, or follow whoever did; then publish, record, delete."""
        job.is_settling = True
        try:
            ended = self._step(job)("end", lambda: self._doors.tasks.end(row, ending))
        except LostClaimError as error:
            return self._follow(job, error.row)
        except StepAbandonedError:
            # Whether the last try was carried out is not known: the next claim finds out.
            return LEAVE
        return self._announce(job, ended)

    def _follow(self, job: Job, row: Row | None) -> Settlement:
        """Act on a row that somebody else (or an earlier try of ours) has changed."""
        if row is not None and row.is_ended:
            return DELETE if row.notified else self._announce(job, row)
        return LEAVE

    def _announce(self, job: Job, row: Row) -> Settlement:
        """Publish an end state and record that."""
        job.is_settling = True
        if job.announced is not None:
            job.announced.wait(contract.VISIBILITY_SECONDS)
        step = self._step(job)
        try:
            step("notify", lambda: self._doors.notifier.publish(row))
            step("notified", lambda: self._doors.tasks.notified(row))
        except (StepAbandonedError, TransientError):
            return LEAVE  # the end stands; the next delivery or the sweep publishes it
        self._metrics.task_ended(row.status)
        log.info(
            "task %s", row.status,
            extra={"action": "task_ended", "status": row.status, "attempts": row.attempts},
        )  # fmt: skip
        return DELETE

    # -- steps --------------------------------------------------------------------------------------

    def _step(self, job: Job) -> Step:
        def step(name: str, call: Callable[[], Any]) -> Any:
            return retry_step(
                name, call, abandoned=job.abandoned, now=self._clocks.now, on_error=self._step_error
            )

        return step

    def _step_error(self, name: str, code: str) -> None:
        self._metrics.count("step_error")
        log.warning("step %s failed: %s", name, code, extra={"action": "step_error", "step": name})


def invalid_task(task: Task) -> dict[str, Any]:
    """Return the `error` object of a task that breaks the contract, every problem named."""
    message = "; ".join(f"{problem.path}: {problem.message}" for problem in task.problems)
    return {"code": "invalid_task", "message": message}


def is_overdue(task: Task, sent_ms: int, now_ms: int) -> bool:
    """Tell whether a task that was sent at `sent_ms` is past its deadline."""
    return task.deadline_seconds is not None and sent_ms + task.deadline_seconds * 1000 <= now_ms


def _claimed(job: Job) -> Row:
    if job.row is None:
        raise AssertionError("only a claimed job has a row")
    return job.row
