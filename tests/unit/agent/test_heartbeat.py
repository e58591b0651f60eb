"""What is held stays held, and what is lost is noticed."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from sdctl.contract import Task
from sdctl_agent.heartbeat import Heartbeat
from sdctl_agent.job import CANCELLED, LOST, Job, Message
from sdctl_agent.logs import JsonFormatter, task_context
from sdctl_agent.metrics import NoMetrics
from sdctl_agent.pool import Pool
from sdctl_agent.runtimes.base import Progress
from sdctl_agent.table import MemoryTasks

DOWN = EndpointConnectionError(endpoint_url="http://x")


class Queue:
    """The consumer's `extend`; `codes` are what SQS says against it."""

    def __init__(self) -> None:
        self.extended: list[int] = []
        self.codes: list[str] = []
        self.error: Exception | None = None

    def extend(self, jobs: Sequence[Job]) -> dict[Job, str]:
        if self.error:
            raise self.error
        if self.codes:
            return dict.fromkeys(jobs, self.codes[0])
        self.extended.append(len(jobs))
        return {}


class SharedTasks(MemoryTasks):
    """Tasks that others see, too; counts what is written and read."""

    is_shared = True

    def __init__(self, now_ms: Any) -> None:
        super().__init__(now_ms)
        self.holds: list[tuple[float | None, str | None]] = []
        self.looks = 0
        self.error: Exception | None = None

    def hold(
        self, task_id: str, token: str, progress: float | None, node: str | None, started_ms: int | None
    ) -> Any:
        if self.error:
            raise self.error
        self.holds.append((progress, node))
        return super().hold(task_id, token, progress, node, started_ms)

    def look(self, task_id: str) -> Any:
        if self.error:
            raise self.error
        self.looks += 1
        return super().look(task_id)


class FakeRun:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.now = Progress()

    def progress(self) -> Progress:
        return self.now


class World:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.queue, self.tasks = Queue(), SharedTasks(lambda: int(self.seconds * 1000))
        self.heartbeat = Heartbeat(
            self.queue,
            self.tasks,
            lambda: self.seconds,
            lambda: int(self.seconds * 1000),
            NoMetrics(),  # type: ignore[arg-type]
        )
        self.job = Job(Message("m", "r", "{}", 1, 0, 0.0), "token")
        self.job.task = Task(id="dog", runtime="main", tasktype="text-to-image", content={})
        self.job.row = self.tasks.claim_unseen(self.job.task, "token", 0, 1)  # type: ignore[assignment]
        self.job.lease_until = 30.0
        self.run = FakeRun()
        self.job.run = self.run  # type: ignore[assignment]
        self.heartbeat.hold(self.job)

    def tick(self, seconds: float) -> None:
        """Let time pass in the heartbeat's own steps."""
        end = self.seconds + seconds
        while self.seconds < end:
            self.seconds += 0.5
            self.heartbeat.extend_due()
            if self.job.row is not None and not self.job.abandoned.is_set():
                self.heartbeat.watch(self.job)


@pytest.fixture
def world() -> World:
    return World()


def test_messages_and_claims_are_extended_every_10_seconds(world: World) -> None:
    world.tick(60)
    assert world.queue.extended == [1] * 6
    assert len(world.tasks.holds) == 6
    assert world.job.reason == ""


def test_progress_is_written_at_most_once_a_second_and_only_when_it_changed(world: World) -> None:
    for step in range(10):
        world.run.now = Progress(step / 10, f"node {step // 5}")
        world.tick(0.5)
    assert 4 <= len(world.tasks.holds) <= 5
    assert world.tasks.holds[-1][1] in ("node 0", "node 1")
    written = len(world.tasks.holds)
    world.tick(4)
    assert len(world.tasks.holds) <= written + 1


def test_when_the_runtime_began_is_told_with_the_next_look_and_once(world: World) -> None:
    world.tick(3)
    looks = world.tasks.looks
    assert world.tasks.holds == []
    world.job.running_since = 2.5
    world.tick(6)
    row = world.tasks.look("dog")
    assert row is not None
    assert row.started_at == 2500
    assert len(world.tasks.holds) == 1
    assert world.tasks.looks - looks - 1 <= 5  # the write took the place of one look


def test_a_loop_that_hangs_is_noticed(world: World) -> None:
    world.seconds = 80
    assert world.heartbeat.is_beating()
    world.seconds = 100
    assert not world.heartbeat.is_beating()


def test_a_cancel_is_seen_within_2_seconds(world: World) -> None:
    world.tick(5)
    row = world.tasks.look("dog")
    world.tasks._rows["dog"] = type(row)(
        **{f: getattr(row, f) for f in row.__slots__} | {"cancel_requested": True}
    )
    world.tick(2)
    assert world.job.reason == CANCELLED


def test_a_claim_that_somebody_else_took_stops_the_work(world: World) -> None:
    row = world.tasks.look("dog")
    world.tasks._rows["dog"] = type(row)(**{f: getattr(row, f) for f in row.__slots__} | {"claim": "other"})
    world.tick(2)
    assert world.job.reason == LOST


def test_a_table_that_does_not_answer_stops_the_work_when_the_lease_has_run_out(world: World) -> None:
    world.tasks.error = DOWN
    world.tick(29)
    assert world.job.reason == ""
    world.tick(2)
    assert world.job.reason == LOST


def test_a_table_that_answers_again_in_time_loses_nothing(world: World) -> None:
    world.tasks.error = DOWN
    world.tick(25)
    world.tasks.error = None
    world.tick(30)
    assert world.job.reason == ""


@pytest.mark.parametrize("fault", ["code", "error"])
def test_a_message_that_cannot_be_extended_stops_the_work_when_it_is_visible_again(
    world: World, fault: str
) -> None:
    if fault == "code":
        world.queue.codes = ["InvalidParameterValue"]
    else:
        world.queue.error = DOWN
    world.tick(29)
    assert world.job.reason == ""
    world.tick(1.5)
    assert world.job.reason == LOST


def test_a_task_that_the_agent_itself_settles_is_not_lost(world: World) -> None:
    world.job.is_settling = True
    row = world.job.row
    assert row is not None
    assert world.job.row is not None
    world.tasks.release(world.job.row, "token", counted=False, has_started=True)
    world.tick(40)
    assert world.job.reason == ""


def test_what_was_dropped_is_not_extended(world: World) -> None:
    world.heartbeat.drop(world.job)
    world.job.row = None
    world.tick(40)
    assert world.queue.extended == []
    assert world.job.reason == ""


def test_log_lines_are_json_with_the_task_and_the_extra_fields() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("sdctl_agent.test")
    logger.addHandler(handler)
    with task_context("dog"):
        logger.info("task %s", "ended", extra={"action": "task_ended", "seconds": 1.5})
    logger.info("other")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["message"], first["task_id"], first["action"], first["seconds"]) == (
        "task ended", "dog", "task_ended", 1.5,
    )  # fmt: skip
    assert first["time"].endswith("Z")
    assert "task_id" not in second


def test_a_pool_keeps_the_order_of_results_and_raises_the_first_error() -> None:
    crashes: list[BaseException] = []
    pool = Pool("test", 3, crashes.append)
    assert pool.map([lambda n=n: n * n for n in range(20)]) == [n * n for n in range(20)]
    done: list[int] = []

    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        pool.map([fail, lambda: done.append(1) or 1])
    assert done == [1]
    assert pool.map([]) == []
    assert crashes == []


def test_a_crash_in_a_pools_thread_is_reported() -> None:
    crashed = threading.Event()
    pool = Pool("test", 1, lambda error: crashed.set())
    pool.submit(lambda: 1 / 0)
    assert crashed.wait(5)
    ran = threading.Event()
    pool.submit(ran.set)
    assert ran.wait(5)
