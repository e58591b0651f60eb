"""Keeps held messages invisible and their claims alive, and notices when either is lost.

Two threads, since a table that does not answer must not keep messages from being extended: one extends
visibility, one extends claims, writes progress and sees that a cancel was asked for. Whoever starts them
watches them: an agent without a heartbeat must not work.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sdctl import contract, task_record
from sdctl_agent.aws import AWS_FAILURES, error_code
from sdctl_agent.consumer import Consumer
from sdctl_agent.job import CANCELLED, LOST, Job
from sdctl_agent.metrics import Metrics
from sdctl_agent.table import LostClaimError, Tasks

TICK_SECONDS = 0.5
# A cancel has to be seen within 2 s; progress is written at most once a second.
WATCH_SECONDS = 1.0
# A loop that has not turned for this long hangs: its calls time out much earlier.
STUCK_SECONDS = 90.0
LEASE_SECONDS = task_record.CLAIM_MS / 1000
log = logging.getLogger(__name__)


class Heartbeat:
    """The held jobs, and the two loops that keep them held."""

    def __init__(
        self,
        consumer: Consumer,
        tasks: Tasks,
        now: Callable[[], float],
        now_ms: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._consumer = consumer
        self._tasks = tasks
        self._now = now
        self._now_ms = now_ms
        self._metrics = metrics
        self._ticked = dict.fromkeys(("visibility", "claims"), now())
        self._lock = threading.Lock()
        self._jobs: set[Job] = set()
        self._stop = threading.Event()

    def hold(self, job: Job) -> None:
        """Keep a job's message, and its claim once it has one, from now on."""
        job.visible_until = job.message.received_at + contract.VISIBILITY_SECONDS
        with self._lock:
            self._jobs.add(job)

    def drop(self, job: Job) -> None:
        """Let go of a job."""
        with self._lock:
            self._jobs.discard(job)

    def stop(self) -> None:
        """End both loops."""
        self._stop.set()

    def keep_visibility(self) -> None:
        """Extend visibility until stopped: the work of one thread."""
        while not self._stop.wait(TICK_SECONDS):
            self._ticked["visibility"] = self._now()
            self.extend_due()

    def keep_claims(self) -> None:
        """Extend claims and watch for cancels until stopped: the work of one thread."""
        while not self._stop.wait(TICK_SECONDS):
            self._ticked["claims"] = self._now()
            for job in self._held():
                self._ticked["claims"] = self._now()  # each of them may have to wait for the table
                if job.row is not None and not job.abandoned.is_set():
                    self.watch(job)

    def is_beating(self) -> bool:
        """Tell whether both loops still turn; they are allowed the time-outs of their calls."""
        return self._now() - min(self._ticked.values()) < STUCK_SECONDS

    def extend_due(self) -> None:
        """Extend every message that is due; a message whose time has run out is lost."""
        now = self._now()
        held = self._held()
        due = [job for job in held if now - job.beat_at >= contract.HEARTBEAT_SECONDS]
        if due:
            try:
                failed = self._consumer.extend(due)
            except AWS_FAILURES as error:
                failed = dict.fromkeys(due, error_code(error))
            for job in due:
                if job not in failed:
                    job.beat_at, job.visible_until = now, now + contract.VISIBILITY_SECONDS
                else:
                    # Tried again with the next tick but one: a call that fails at once must not flood SQS.
                    job.beat_at = now - contract.HEARTBEAT_SECONDS + 2 * TICK_SECONDS
                    log.warning(
                        "visibility was not extended: %s", failed[job],
                        extra={"action": "extend_failed", "task": job.task_id},
                    )  # fmt: skip
        for job in held:
            if self._now() >= job.visible_until:
                self._lose(job, "its message is visible again")

    def watch(self, job: Job) -> None:
        """Extend one job's claim if due, write its progress, and stop it if that was asked for."""
        now = self._now()
        if job.is_settling:
            return
        lease_due = job.lease_until - now <= LEASE_SECONDS - contract.HEARTBEAT_SECONDS
        watch_due = not job.is_finishing and now - job.watched_at >= WATCH_SECONDS
        if not lease_due and not watch_due:
            return
        progress = job.run.progress() if job.run is not None and not job.is_finishing else job.reported
        changed = progress != job.reported
        # Told with the next write; the end tells it, too, so no call is made for it.
        begun = job.running_since if not job.has_told_start and not job.is_finishing else None
        if not self._tasks.is_shared and not lease_due:
            return  # nobody else could read progress or ask for a cancel
        job.watched_at = now
        try:
            if lease_due or changed or begun is not None:  # else a look, which costs a call as well
                row = self._tasks.hold(
                    job.task_id, job.token, progress.value if changed else None,
                    progress.node if changed else None,
                    None if begun is None else self._now_ms() - round((now - begun) * 1000),
                )  # fmt: skip
                job.lease_until = now + LEASE_SECONDS
                job.has_told_start = job.has_told_start or begun is not None
                job.reported = progress if changed else job.reported
            else:
                looked = self._tasks.look(job.task_id)
                if looked is None or looked.claim != job.token:
                    raise LostClaimError(looked)
                row = looked
        except LostClaimError:
            # Not if it was the agent itself that settled the task while this call was on its way.
            if self._is_held(job) and not job.is_settling:
                self._lose(job, "its claim is lost")
            return
        except AWS_FAILURES as error:
            log.warning(
                "the task table does not answer: %s", error_code(error),
                extra={"action": "hold_failed", "task": job.task_id},
            )  # fmt: skip
            if self._now() >= job.lease_until:
                self._lose(job, "its claim could not be extended")
            return
        if row.cancel_requested and not job.is_finishing:
            job.stop(CANCELLED, self._now())

    def _lose(self, job: Job, why: str) -> None:
        self.drop(job)
        if job.stop(LOST, self._now()):
            self._metrics.count("lost")
            log.warning("task is left to others: %s", why, extra={"action": "lost", "task": job.task_id})

    def _held(self) -> list[Job]:
        with self._lock:
            return list(self._jobs)

    def _is_held(self, job: Job) -> bool:
        with self._lock:
            return job in self._jobs
