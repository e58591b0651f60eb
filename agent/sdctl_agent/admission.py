"""Before the runtime: decode a message, claim its task, refuse what must not run, fetch what it needs."""

from __future__ import annotations

import dataclasses
import logging
from functools import partial

from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl.task_record import Ending, Row
from sdctl_agent.endings import Endings, exhausted, expired, failed, invalid_task
from sdctl_agent.errors import PermanentError
from sdctl_agent.job import DELETE, SET_ASIDE, Job, Message, Settlement, release_after
from sdctl_agent.steps import Clocks, Doors, Rules, Steps
from sdctl_agent.table import Refused, Verdict, judge, look_again_seconds

log = logging.getLogger(__name__)

# How often a claim is tried again when the row changed between the write and the look at what stood there.
CLAIM_TRIES = 5


class Admission:
    """Lets jobs in; safe to use from several threads, a job by one at a time."""

    def __init__(self, doors: Doors, rules: Rules, clocks: Clocks, steps: Steps, endings: Endings) -> None:
        self._doors = doors
        self._rules = rules
        self._clocks = clocks
        self._steps = steps
        self._endings = endings

    def admit(self, job: Job) -> Settlement | None:
        """Decode a message and claim its task.

        Returns:
            None when the task is this job's to run, else what becomes of the message.

        Raises:
            StepAbandonedError: the job was stopped meanwhile.
        """
        try:
            job.task = self.decode(job.message)
        except contract.UndecodableMessageError as error:
            self._steps.metrics.count("undecodable")
            log.warning("a message holds no task: %s", error, extra={"action": "undecodable"})
            return SET_ASIDE
        with self._steps.timed(job, "claim"):
            return self._claim(job, job.task)

    def decode(self, message: Message) -> Task:
        """Read the task of a message. Raises `UndecodableMessageError`."""
        return contract.parse_message(
            message.body,
            runtime=self._rules.runtime_name,
            task_types=sorted(self._doors.runtime.task_types),
            message_id=message.id,
        )

    def prepare(self, job: Job) -> None:
        """Fetch what the task needs and build the runtime's request.

        Raises:
            AgentError, StepAbandonedError: as `Handler.conclude` understands them.
        """
        task = job.task
        if task is None:
            raise AssertionError("a job is admitted before it is prepared")
        with self._steps.timed(job, "prepare"):
            if task.pointer is not None:
                content = self._doors.storage.read_content(task.pointer, self._steps.of(job))
                problems = contract.workflow_problems(content) if task.tasktype == "pipeline" else []
                if problems:
                    raise PermanentError(f"content: {'; '.join(problems)}")
                job.task = task = dataclasses.replace(task, content=content)
            job.prepared = self._doors.runtime.prepare(task, self._doors.fetch)

    # -- the claim ----------------------------------------------------------------------------------

    def _claim(self, job: Job, task: Task) -> Settlement | None:
        tasks, step = self._doors.tasks, self._steps.of(job)
        count, sent_ms = job.message.receive_count, job.message.sent_ms or self._clocks.now_ms()
        for _ in range(CLAIM_TRIES):
            before = self._clocks.now()
            claimed: Row | Refused = step("claim", partial(tasks.claim, task.id, job.token, count))
            if isinstance(claimed, Refused) and claimed.row is None:
                ending = self._unfit(job, task, sent_ms)
                if ending is not None:
                    return self._endings.end_unseen(job, task, ending, sent_ms)
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

    def _unfit(self, job: Job, task: Task, sent_ms: int) -> Ending | None:
        """Return the end of a direct publish that must not run at all."""
        now_ms = self._clocks.now_ms()
        if task.problems:
            return failed(invalid_task(task), now_ms)
        # Without a table nobody knows whether one that was received before has started.
        never_started = self._doors.tasks.is_shared or job.message.receive_count == 1
        if never_started and is_overdue(task, sent_ms, now_ms):
            return expired(now_ms)
        return None

    def _kept(self, job: Job, task: Task) -> Task:
        """Put the content of a direct publish where a retry finds it, if it is too large for the row."""
        if not self._doors.tasks.is_shared or task.pointer is not None:
            return task
        if len(task_record.pack_body(task.content)) <= task_record.INLINE_BODY_BYTES:
            return task
        pointer = self._doors.storage.store_content(task, self._steps.of(job))
        return dataclasses.replace(task, pointer=pointer)

    def _admitted(self, job: Job, row: Row) -> Settlement | None:
        now_ms, limit = self._clocks.now_ms(), self._rules.max_attempts
        if row.attempts - row.retry_base > limit:
            log.warning("attempts are exhausted", extra={"action": "exhausted", "attempts": row.attempts})
            ending = failed(exhausted(limit, "it was interrupted each time"), now_ms)
            # The claim that found it out was no attempt.
            return self._endings.end(job, dataclasses.replace(ending, attempts=row.retry_base + limit))
        if job.task is not None and job.task.problems:
            return self._endings.end(job, failed(invalid_task(job.task), now_ms))
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
                return self._endings.announce(job, row)
            case Verdict.LEAVE:
                return release_after(look_again_seconds(row, now_ms))
            case Verdict.CANCEL:
                return self._endings.end_from(job, row, Ending(contract.CANCELLED, now_ms))
            case Verdict.EXPIRE:
                return self._endings.end_from(job, row, expired(now_ms))
            case Verdict.AGAIN:
                return None


def is_overdue(task: Task, sent_ms: int, now_ms: int) -> bool:
    """Tell whether a task that was sent at `sent_ms` is past its deadline."""
    return task.deadline_seconds is not None and sent_ms + task.deadline_seconds * 1000 <= now_ms
