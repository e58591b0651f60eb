"""How many messages are held when, and which task goes next."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from sdctl.contract import Task
from sdctl_agent import affinity
from sdctl_agent.board import MAX_FINISHING, Board
from sdctl_agent.estimator import MAX_DEPTH, Estimator
from sdctl_agent.job import DRAIN, LOST, YIELD, Job, Message
from sdctl_agent.runtimes.base import Prepared, Progress


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def make_job(clock: Clock, checkpoint: str = "") -> Job:
    job = Job(Message("m", "r", "{}", 1, 0, clock()), "token")
    task = Task(id="t", runtime="main", tasktype="text-to-image", content={})
    job.prepared = Prepared(task, None, checkpoint=checkpoint)
    return job


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board(clock)


def run_one(board: Board, clock: Clock, seconds: float, *, input_seconds: float = 0.0) -> None:
    job = start_one(board, clock, input_seconds=input_seconds)
    clock.seconds += seconds
    board.finishing(job)
    board.drop(job, was_finishing=True)


def start_one(board: Board, clock: Clock, *, input_seconds: float = 0.0, progress: Any = None) -> Job:
    job = make_job(clock)
    board.add(job)
    clock.seconds += input_seconds
    assert board.ready(job)
    assert board.take(str, wait=False) is job
    job.run = SimpleNamespace(progress=lambda: Progress(progress))  # type: ignore[assignment]
    board.started(job)
    return job


def test_an_idle_agent_polls_long_for_one_message(board: Board) -> None:
    appetite = board.appetite()
    assert (appetite.limit, appetite.wait_seconds) == (1, 20)


def test_the_first_task_holds_no_second_message(board: Board, clock: Clock) -> None:
    job = make_job(clock)
    board.add(job)
    assert board.appetite().limit == 0
    board.ready(job)
    assert board.appetite().limit == 0
    assert board.take(str, wait=False) is job
    assert board.appetite().limit == 0, "nor while it is being started"
    board.started(job)
    assert board.appetite().limit == 0


def test_behind_a_task_of_seconds_one_message_is_held(board: Board, clock: Clock) -> None:
    run_one(board, clock, 0.5)
    start_one(board, clock)
    assert board.appetite().limit == 1
    board.add(make_job(clock))
    assert board.appetite().limit == 0


def test_slow_inputs_deepen_the_pipeline_to_four_at_most(board: Board, clock: Clock) -> None:
    run_one(board, clock, 0.1, input_seconds=0.25)
    start_one(board, clock, input_seconds=0.25)
    assert board.appetite().limit == 3
    board.estimator.input_seconds = 60.0
    assert board.appetite().limit == MAX_DEPTH


def test_behind_a_task_of_minutes_a_message_is_held_only_shortly_before_its_end(
    board: Board, clock: Clock
) -> None:
    run_one(board, clock, 300)
    start_one(board, clock)
    assert board.appetite().limit == 0
    clock.seconds += 298
    assert board.appetite().limit == 1


def test_a_task_that_is_long_overdue_stops_the_receiving_and_yields(board: Board, clock: Clock) -> None:
    run_one(board, clock, 1.0)
    start_one(board, clock)
    assert board.appetite().limit == 1
    assert not board.has_slow_task()
    clock.seconds += 5
    assert board.appetite().limit == 0
    clock.seconds += 10
    assert board.has_slow_task()


def test_telling_progress_counts_more_than_the_average(board: Board, clock: Clock) -> None:
    run_one(board, clock, 1.0)
    start_one(board, clock, progress=0.25)
    clock.seconds += 10
    assert board.has_slow_task()
    start = Estimator()
    assert start.remaining(9.0, 0.9) == pytest.approx(1.0)
    assert start.remaining(9.0, 0.01) is None
    assert start.remaining(0.0, None) is None


def test_while_storing_is_behind_nothing_is_started(board: Board, clock: Clock) -> None:
    for _ in range(MAX_FINISHING):
        board.finishing(start_one(board, clock))
    job = make_job(clock)
    board.add(job)
    board.ready(job)
    assert board.take(str, wait=False) is None


def test_a_failed_or_stopped_run_teaches_nothing_about_time(board: Board, clock: Clock) -> None:
    job = start_one(board, clock)
    job.stop(DRAIN, clock())
    board.finishing(job)
    assert board.estimator.task_seconds is None


def test_closing_wakes_a_slot_that_waits(board: Board) -> None:
    taken: list[Job | None] = []
    slot = threading.Thread(target=lambda: taken.append(board.take(str)))
    slot.start()
    board.close()
    slot.join(5)
    assert taken == [None]


def test_a_job_that_was_withdrawn_cannot_become_ready(board: Board, clock: Clock) -> None:
    job = make_job(clock)
    board.add(job)
    assert board.withdraw(job)
    assert not board.withdraw(job)
    assert not board.ready(job)


def test_many_waiting_input_bytes_stop_the_receiving(board: Board, clock: Clock) -> None:
    run_one(board, clock, 0.1, input_seconds=1)
    start_one(board, clock, input_seconds=1)
    big = make_job(clock)
    assert big.prepared is not None
    big.prepared.held_bytes = 100_000_000
    board.add(big)
    assert board.appetite().limit == 0


def test_with_affinity_the_loaded_model_goes_first_within_the_bound(clock: Clock) -> None:
    board = Board(clock, has_affinity=True)
    other, loaded = make_job(clock, "b.safetensors"), make_job(clock, "a.safetensors [0123456789]")
    for job in (other, loaded):
        board.add(job)
        board.ready(job)
    assert board.take(lambda: "a.safetensors", wait=False) is loaded
    assert board.take(lambda: "a.safetensors", wait=False) is other


def test_the_oldest_task_is_passed_over_a_bounded_number_of_times() -> None:
    queue = ["b", "a"]
    assert affinity.choose(queue, "a", 0) == 1
    assert affinity.choose(queue, "a", affinity.MAX_PASSED_OVER) == 0
    assert affinity.choose(queue, "", 0) == 0
    assert affinity.choose(["", "a"], "a", 0) == 0
    assert affinity.choose(["b", "c"], "a", 0) == 0


def test_the_first_reason_to_stop_counts_but_a_lost_claim_overrides_it(clock: Clock) -> None:
    seen: list[str] = []
    job = make_job(clock)
    job.when_stopped(lambda stopped: seen.append(stopped.reason))
    assert job.stop(YIELD, 1.0)
    assert not job.stop(DRAIN, 2.0)
    assert not job.abandoned.is_set()
    assert job.stop(LOST, 3.0)
    assert not job.stop(DRAIN, 4.0)
    assert job.abandoned.is_set()
    assert (job.reason, job.stopped_at, seen) == (LOST, 1.0, [YIELD, LOST])
