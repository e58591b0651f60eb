"""The pipeline: receives, prepares, runs and settles, so that the GPU waits for nothing but work.

Threads: one receives; a few admit and prepare; one slot (and one for each task that the server queues
itself) runs; a few conclude; two keep what is held alive; one watches the idle runtime. Every thread is
guarded: one that dies stops the worker. What they share is the board.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sdctl.contract import checkpoint_key
from sdctl_agent.aws import AWS_FAILURES, StepAbandonedError, StepFailedError, error_code, retry_step
from sdctl_agent.board import Board
from sdctl_agent.consumer import Consumer, PollAbortedError
from sdctl_agent.errors import AgentError, PermanentError, RuntimeDownError, TransientError
from sdctl_agent.estimator import MAX_DEPTH
from sdctl_agent.handler import UNDECODABLE_DELAY_SECONDS, Handler
from sdctl_agent.heartbeat import Heartbeat
from sdctl_agent.job import DRAIN, LEAVE, RUNTIME_DOWN, TIMEOUT, YIELD, Job, Message, Settlement
from sdctl_agent.job import release_after as _release_after
from sdctl_agent.logs import task_context
from sdctl_agent.memory_watch import MemoryWatch
from sdctl_agent.metrics import Metrics
from sdctl_agent.pool import Pool, guarded
from sdctl_agent.runtimes.base import Run, Runtime
from sdctl_agent.tracing import Tracer

# An interrupted run that does not end within this time is left alone.
INTERRUPT_SECONDS = 10.0
# A runtime may load its model for this long, at the start and after it went away.
READY_SECONDS = 20 * 60.0
READY_TIMEOUT_SECONDS = 5.0
IDLE_WATCH_SECONDS = 2.0
# A server whose threads are gone before its connections says such things ("cannot schedule new futures after
# shutdown"). A pod's containers are signalled at once: so soon the agent is draining, or the server is gone.
LAST_WORDS = frozenset({"runtime_error", "execution_error"})
DOUBT_SECONDS = 0.5
# How long deleting or releasing a message is tried before it is left to its visibility timeout.
SETTLE_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds."""

    drain_seconds: float
    task_timeout_seconds: float
    ready_seconds: float = READY_SECONDS


@dataclass(frozen=True, slots=True)
class Parts:
    """What the worker is made of."""

    consumer: Consumer
    handler: Handler
    heartbeat: Heartbeat
    runtime: Runtime
    board: Board
    metrics: Metrics
    warm_up: Callable[[], None]  # makes what the first task would have to wait for
    tracer: Tracer
    memory: MemoryWatch


class Worker:
    """Runs until it is told to stop, or until one of its threads dies."""

    def __init__(
        self, parts: Parts, timing: Timing, now: Callable[[], float], *, can_yield: bool, notify_running: bool
    ) -> None:
        self._consumer = parts.consumer
        self._handler = parts.handler
        self._heartbeat = parts.heartbeat
        self._runtime = parts.runtime
        self._board = parts.board
        self._metrics = parts.metrics
        self._warm_up = parts.warm_up
        self._tracer = parts.tracer
        self._memory = parts.memory
        self._timing = timing
        self._now = now
        # Without a shared table a hand-back counts as an attempt, so it is not done for speed alone.
        self._can_yield = can_yield
        self._notify_running = notify_running
        self._stopping = threading.Event()
        self._is_down = threading.Event()
        self._is_down.set()  # until it has answered for the first time
        self._crashed = False
        self._start_order = threading.Lock()
        self._intake = Pool("prepare", MAX_DEPTH, self._crash)
        self._outlet = Pool("conclude", 6, self._crash)
        self._interrupts = Pool("interrupt", 2, self._crash)
        self._notices = Pool("notice", 2, self._crash)

    # -- life ---------------------------------------------------------------------------------------

    def run(self, wait_for_stop: Callable[[], None]) -> int:
        """Work until `wait_for_stop` returns, then drain; return the exit code.

        `wait_for_stop` must also return when the process sends itself SIGTERM, which a crash does.
        """
        loops: list[tuple[str, Callable[[], None]]] = [
            ("visibility", self._heartbeat.keep_visibility),
            ("claims", self._heartbeat.keep_claims),
            ("receive", self._receive_loop),
            ("idle-watch", self._watch_idle_runtime),
        ]
        loops += [(f"slot-{number}", self._slot_loop) for number in range(1 + self._runtime.queue_ahead)]
        for name, loop in loops:
            threading.Thread(target=guarded(loop, self._crash), name=name, daemon=True).start()
        wait_for_stop()
        self._drain()
        return 1 if self._crashed else 0

    def is_ready(self) -> bool:
        """Tell whether the runtime answers and messages are received."""
        return not self._is_down.is_set() and not self._stopping.is_set()

    def _crash(self, error: BaseException) -> None:
        log.critical("a thread died, the agent stops", exc_info=error, extra={"action": "crash"})
        self._give_up()

    def _give_up(self) -> None:
        self._stopping.set()
        self._crashed = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _drain(self) -> None:
        """Stop receiving, hand back what has not started, finish what fits, hand back the rest."""
        log.info("draining", extra={"action": "drain", "held": len(self._board.held())})
        # After a crash nobody may be left to finish: what is held goes to another agent at once.
        deadline = self._now() + (0.0 if self._crashed else self._timing.drain_seconds)
        self._stopping.set()
        self._consumer.abort()
        self._board.close()
        for job in self._board.behind():
            job.stop(DRAIN, self._now())
        if not self._board.wait_until_empty(deadline - self._now()):
            for job in self._board.held():
                job.stop(DRAIN, self._now())
                if job.is_finishing:
                    job.abandoned.set()
            self._board.wait_until_empty(INTERRUPT_SECONDS + SETTLE_SECONDS / 6)
        self._heartbeat.stop()
        self._tracer.close()
        log.info("stopped", extra={"action": "stopped", "left": len(self._board.held())})

    # -- receiving ----------------------------------------------------------------------------------

    def _receive_loop(self) -> None:
        delay = 0.2
        is_warm = False
        while not self._stopping.is_set():
            if self._is_down.is_set() and not self._runtime_came_back():
                continue
            if self._can_yield and self._board.has_slow_task():
                for job in self._board.behind():
                    job.stop(YIELD, self._now())
            appetite = self._board.appetite()
            if appetite.limit <= 0:
                self._board.pause(appetite.wait_seconds)
                continue
            if not is_warm:
                is_warm = True
                self._consumer.open()
                self._intake.submit(self._warm_up)  # while the first message is awaited
            try:
                messages = self._consumer.receive(appetite.limit, int(appetite.wait_seconds))
            except PollAbortedError:
                continue
            except AWS_FAILURES as error:
                log.warning("receive failed: %s", error_code(error), extra={"action": "receive_failed"})
                self._stopping.wait(delay)
                delay = min(delay * 2, 10.0)
                continue
            delay = 0.2
            for message in messages:
                self._accept(message)

    def _accept(self, message: Message) -> None:
        job = Job(message, uuid.uuid4().hex)
        job.when_stopped(self._react)
        self._heartbeat.hold(job)
        self._board.add(job)
        self._metrics.in_flight(len(self._board.held()))
        if self._stopping.is_set() or self._is_down.is_set():
            # Taken by a poll that was being aborted: it was not even looked at.
            job.is_admitted = True
            job.stop(DRAIN if self._stopping.is_set() else RUNTIME_DOWN, self._now())
        else:
            self._intake.submit(lambda: self._prepare(job))

    def _prepare(self, job: Job) -> None:
        """Admit and prepare one job: the work of an intake thread."""
        try:
            settlement = self._handler.admit(job)
        except StepFailedError as error:
            log.warning("task could not be claimed: %s", error.message, extra={"action": "claim_failed"})
            settlement = LEAVE
        except Exception as error:  # noqa: BLE001 - the boundary around one message
            self._bug(job, error)
            settlement = _release_after(UNDECODABLE_DELAY_SECONDS)
        job.is_admitted = True
        with task_context(job.task_id):
            if settlement is not None:
                self._board.withdraw(job)
                self._settle(job, settlement, was_finishing=False)
                return
            log.info("task claimed", extra={"action": "claimed", "receive_count": job.message.receive_count})
            if not job.is_stopped():
                self._guard_errors(job, lambda: self._handler.prepare(job))
            if job.error is not None or job.is_stopped():
                if self._board.withdraw(job):
                    self._finish_soon(job)
                else:
                    self._drop_prepared(job)
            elif not self._board.ready(job):
                self._drop_prepared(job)  # stopped, and finished, while it was prepared

    def _drop_prepared(self, job: Job) -> None:
        """Let go of what was prepared for a task that is not started."""
        prepared, job.prepared = job.prepared, None
        if prepared is not None:
            prepared.drop()

    def _guard_errors(self, job: Job, work: Callable[[], None]) -> None:
        """Keep what goes wrong with one task as its error."""
        try:
            work()
        except StepAbandonedError:
            job.error = TransientError("its steps were abandoned", code="abandoned")
        except AgentError as error:
            job.error = error
        except Exception as error:  # noqa: BLE001 - the boundary around one message
            self._bug(job, error)
            job.error = TransientError(f"internal error: {type(error).__name__}", code="internal")
        if isinstance(job.error, RuntimeDownError) and not job.is_stopped():
            self._mark_down(job.error.message)

    def _bug(self, job: Job, error: Exception) -> None:
        with task_context(job.task_id):
            log.error("unexpected error", exc_info=error, extra={"action": "bug"})

    # -- running ------------------------------------------------------------------------------------

    def _slot_loop(self) -> None:
        ended: Job | None = None
        while True:
            # The next task is started before anything of the last one is done: the GPU comes first.
            job = self._start_next(wait=ended is None)
            if ended is not None:
                self._conclude_soon(ended)
                ended = None
            elif job is None:
                return
            if job is None:
                continue
            with task_context(job.task_id):
                run = job.run
                if run is not None:
                    self._await_run(job, run)
                    self._note_failure(job, run)
            self._leave_runtime(job)
            ended = job

    def _start_next(self, *, wait: bool) -> Job | None:
        """Take the next task and start it; in order, whichever slot it is."""
        if not self._start_order.acquire(blocking=wait):
            return None
        try:
            job = self._board.take(self._runtime.loaded_checkpoint, wait=wait)
            if job is not None:
                with task_context(job.task_id):
                    self._start(job)
            return job
        finally:
            self._start_order.release()

    def _start(self, job: Job) -> None:
        prepared = job.prepared
        if job.is_stopped() or prepared is None:
            return
        loaded = self._runtime.loaded_checkpoint()
        if loaded and prepared.checkpoint and checkpoint_key(loaded) != checkpoint_key(prepared.checkpoint):
            self._metrics.count("model_switch")

        def start() -> None:
            job.run = self._runtime.start(prepared)

        self._guard_errors(job, start)
        if job.run is None:
            return
        job.prepared = None
        self._board.started(job)
        log.info("task started", extra={"action": "started"})
        if self._notify_running:
            job.announced = threading.Event()
            self._notices.submit(lambda: self._handler.announce_running(job))
        if job.is_stopped():  # stopped while it was being started
            self._interrupt(job)

    def _await_run(self, job: Job, run: Run) -> None:
        while not run.done.wait(1.0):
            if self._board.running_seconds(job) > self._timing.task_timeout_seconds:
                job.stop(TIMEOUT, self._now())
            if job.stopped_at is not None and self._now() - job.stopped_at > INTERRUPT_SECONDS:
                log.warning("the run could not be interrupted", extra={"action": "interrupt_failed"})
                if job.reason != YIELD:
                    self._mark_down("a run could not be interrupted")
                return

    def _note_failure(self, job: Job, run: Run) -> None:
        """Know a runtime that went away before the next task is started; the result is read later."""
        error = run.error() if run.done.is_set() and not job.is_stopped() else None
        if error is not None:
            job.error = error
        if isinstance(error, RuntimeDownError):
            self._mark_down(error.message)

    def _react(self, job: Job) -> None:
        """Act on a job that was stopped: settle it if it waits, interrupt it if it runs."""
        if not job.is_admitted:
            job.abandoned.set()  # the thread that admits it settles it
        elif self._board.withdraw(job):
            self._finish_soon(job)
        elif job.run is not None and not job.is_finishing:
            self._interrupts.submit(lambda: self._interrupt(job))

    def _interrupt(self, job: Job) -> None:
        run = job.run
        if run is None:
            return
        if run.done.is_set():
            run.close()  # whoever still reads what it gave is woken
            return
        try:
            run.interrupt()
        except AgentError as error:
            log.warning("interrupt failed: %s", error.message, extra={"action": "interrupt_failed"})

    # -- settling -----------------------------------------------------------------------------------

    def _finish_soon(self, job: Job) -> None:
        self._leave_runtime(job)
        self._conclude_soon(job)

    def _leave_runtime(self, job: Job) -> None:
        seconds = self._board.finishing(job)
        if seconds:
            self._metrics.observe("run", seconds)

    def _conclude_soon(self, job: Job) -> None:
        self._outlet.submit(lambda: self._finish(job))

    def _finish(self, job: Job) -> None:
        """Conclude and settle one job: the work of an outlet thread."""
        settlement = LEAVE
        with task_context(job.task_id):
            try:
                self._drop_prepared(job)
                run = job.run
                if run is not None and job.error is None and not job.is_stopped():
                    self._guard_errors(job, partial(_take_result, job, run))
                self._doubt(job)
                settlement = self._handler.conclude(job)
                if isinstance(job.error, RuntimeDownError):  # while its outputs were read
                    self._mark_down(job.error.message)
            except StepFailedError as error:
                log.warning("task could not be settled: %s", error.message, extra={"action": "settle_failed"})
            except Exception as error:  # noqa: BLE001 - the boundary around one message
                self._bug(job, error)
            finally:
                if job.run is not None:
                    job.run.close()
                self._settle(job, settlement, was_finishing=True)
        if job.ran is not None:
            self._memory.task_ended()

    def _doubt(self, job: Job) -> None:
        """Take a failure that a server reports while it is being ended for its end, not for the task's."""
        error = job.error
        if not isinstance(error, PermanentError) or error.code not in LAST_WORDS or job.is_stopped():
            return
        if self._stopping.wait(DOUBT_SECONDS) or not self._runtime.is_ready(READY_TIMEOUT_SECONDS):
            job.error = RuntimeDownError(f"the runtime was going away: {error.message}")

    def _settle(self, job: Job, settlement: Settlement, *, was_finishing: bool) -> None:
        """Do to the message what was decided; what fails here is left to the visibility timeout."""
        message = job.message
        if settlement.action == "set_aside" and not self._consumer.can_set_aside:
            settlement = _release_after(UNDECODABLE_DELAY_SECONDS)
        if settlement.action in ("release", "leave"):
            self._heartbeat.drop(job)  # or it would extend what is about to be visible again
        try:
            if settlement.action == "set_aside":
                self._retry("set_aside", lambda: self._consumer.set_aside(message))
            if settlement.action in ("set_aside", "delete"):
                self._retry("delete", lambda: self._consumer.delete(message))
            elif settlement.action == "release":
                self._retry("release", lambda: self._consumer.release(message, settlement.delay_seconds))
        except StepFailedError as error:
            log.warning("message is left: %s", error.message, extra={"action": "message_left"})
        finally:
            self._heartbeat.drop(job)
            self._board.drop(job, was_finishing=was_finishing)
            self._metrics.in_flight(len(self._board.held()))
            self._tracer.settled(job, settlement)

    def _retry(self, name: str, call: Callable[[], None]) -> None:
        def on_error(step: str, code: str) -> None:
            log.warning("step %s failed: %s", step, code, extra={"action": "step_error", "step": step})

        limit = 5.0 if self._stopping.is_set() else SETTLE_SECONDS
        retry_step(
            name, call, abandoned=threading.Event(), now=self._now, on_error=on_error, limit_seconds=limit
        )

    # -- the runtime's health -----------------------------------------------------------------------

    def _mark_down(self, why: str) -> None:
        """Receive nothing more and hand back what waits, until the runtime answers again."""
        if self._is_down.is_set():
            return
        self._is_down.set()
        self._metrics.runtime_up(False)
        # A poll that is under way is left alone: what it brings is handed back at once, whereas a poll
        # that is aborted may take a message along that nobody sees for its visibility timeout.
        log.warning("runtime is down: %s", why, extra={"action": "runtime_down"})
        for job in self._board.behind():
            if self._board.is_waiting(job):
                job.stop(RUNTIME_DOWN, self._now())

    def _runtime_came_back(self) -> bool:
        """Wait until the runtime answers; False when the worker stops meanwhile, or because of that."""
        deadline = self._now() + self._timing.ready_seconds
        delay = 0.1
        while not self._stopping.is_set():
            if self._runtime.is_ready(READY_TIMEOUT_SECONDS):
                self._is_down.clear()
                self._metrics.runtime_up(True)
                log.info("runtime is ready", extra={"action": "runtime_ready"})
                return True
            if self._now() > deadline:
                limit = self._timing.ready_seconds
                log.critical("the runtime was not ready within %g s", limit, extra={"action": "not_ready"})
                self._give_up()
                return False
            self._stopping.wait(delay)
            delay = min(delay * 1.5, 2.0)
        return False

    def _watch_idle_runtime(self) -> None:
        while not self._stopping.wait(IDLE_WATCH_SECONDS):
            idle = self._board.is_idle() and not self._is_down.is_set()
            if idle and not self._runtime.is_ready(READY_TIMEOUT_SECONDS) and self._board.is_idle():
                self._mark_down("it does not answer")
            elif idle:
                self._memory.look()


def _take_result(job: Job, run: Run) -> None:
    job.result = run.result()
