"""The task table as the agent uses it, beside the same rules in memory; and the queue's own calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sdctl.contract import Task
from sdctl.task_record import Ending, Row
from sdctl_agent.aws import AwsClients
from sdctl_agent.consumer import Consumer, PollAbortedError
from sdctl_agent.table import LostClaimError, MemoryTasks, Refused, TableTasks, Tasks
from support.agent import ACCOUNT, REGION, Account
from support.emulator import running_emulator


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with running_emulator(tmp_path_factory.mktemp("emulator")) as url:
        yield Account(url)


@pytest.fixture
def clients(account: Account, monkeypatch: pytest.MonkeyPatch) -> AwsClients:
    monkeypatch.setenv("AWS_ENDPOINT_URL", account.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCOUNT)
    return AwsClients(REGION)


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(ms=1_800_000_000_000)


@pytest.fixture(params=["table", "memory"])
def tasks(request: pytest.FixtureRequest, account: Account, clients: AwsClients, clock: Any) -> Tasks:
    if request.param == "table":
        return TableTasks(clients, account.name, lambda: clock.ms)
    return MemoryTasks(lambda: clock.ms)


@pytest.fixture
def task(request: pytest.FixtureRequest) -> Task:
    name = "".join(char if char.isalnum() else "-" for char in request.node.name)
    return Task(id=name[-60:].lstrip("-"), runtime="main", tasktype="text-to-image", content={"prompt": "x"})


def claim(tasks: Tasks, task: Task, token: str, clock: Any, receive_count: int = 1) -> Row | Refused:
    found = tasks.claim(task.id, token, receive_count)
    if isinstance(found, Refused) and found.row is None:
        return tasks.claim_unseen(task, token, clock.ms, receive_count)
    return found


def test_one_of_two_claims_is_granted(tasks: Tasks, task: Task, clock: Any) -> None:
    first = claim(tasks, task, "one", clock)
    second = claim(tasks, task, "two", clock)
    assert isinstance(first, Row)
    assert (first.status, first.claim, first.attempts) == ("running", "one", 1)
    assert isinstance(second, Refused)
    assert second.row is not None
    assert second.row.claim == "one"


def test_a_hand_back_can_be_claimed_again(tasks: Tasks, task: Task, clock: Any) -> None:
    row = claim(tasks, task, "one", clock)
    assert isinstance(row, Row)
    tasks.release(row, "one", counted=False, has_started=True)
    again = claim(tasks, task, "two", clock)
    assert isinstance(again, Row)
    assert (again.claim, again.attempts) == ("two", 1)
    with pytest.raises(LostClaimError):
        tasks.hold(task.id, "one", None, None, None)
    with pytest.raises(LostClaimError):
        tasks.release(row, "one", counted=False, has_started=True)


def test_the_end_is_won_once(tasks: Tasks, task: Task, clock: Any) -> None:
    row = claim(tasks, task, "one", clock)
    assert isinstance(row, Row)
    ended = tasks.end(row, Ending("completed", clock.ms + 5, ["s3://b/k"], "s3://b/o"))
    assert (ended.status, ended.image_url, ended.output_url) == ("completed", ("s3://b/k",), "s3://b/o")
    with pytest.raises(LostClaimError) as lost:
        tasks.end(row, Ending("failed", clock.ms + 9, error={"code": "x"}))
    assert lost.value.row is not None
    assert lost.value.row.status == "completed"
    assert not lost.value.row.notified
    tasks.notified(ended)
    told = tasks.look(task.id)
    assert told is not None
    assert told.notified


def test_the_end_tells_when_the_runtime_began_how_long_it_took_and_the_real_attempts(
    tasks: Tasks, task: Task, clock: Any
) -> None:
    row = claim(tasks, task, "one", clock)
    assert isinstance(row, Row)
    ending = Ending("failed", clock.ms + 900, started_at=clock.ms + 400, run_ms=250, attempts=7)
    ended = tasks.end(row, ending)
    assert (ended.started_at, ended.run_ms, ended.attempts) == (clock.ms + 400, 250, 7)


def test_a_task_that_was_handed_back_before_it_began_can_still_expire(
    account: Account, clients: AwsClients, task: Task, clock: Any
) -> None:
    tasks = TableTasks(clients, account.name, lambda: clock.ms)
    row = claim(tasks, task, "one", clock)
    assert isinstance(row, Row)
    tasks.release(row, "one", counted=False, has_started=False)
    looked = tasks.look(task.id)
    assert looked is not None
    assert (looked.status, looked.started_at) == ("queued", None)


def test_a_task_without_a_row_can_be_ended_once(tasks: Tasks, task: Task, clock: Any) -> None:
    row = tasks.end_unseen(task, Ending("failed", clock.ms, error={"code": "invalid_task"}), clock.ms)
    assert (row.status, row.error, row.runtime) == ("failed", {"code": "invalid_task"}, "main")
    with pytest.raises(LostClaimError):
        tasks.end_unseen(task, Ending("expired", clock.ms), clock.ms)


def test_holding_keeps_progress_and_node(tasks: Tasks, task: Task, clock: Any) -> None:
    claim(tasks, task, "one", clock)
    clock.ms += 10_000
    held = tasks.hold(task.id, "one", 0.5, "KSampler", clock.ms - 4000)
    assert (held.progress, held.node, held.claim_until) == (0.5, "KSampler", clock.ms + 30_000)
    assert held.started_at == clock.ms - 4000
    assert tasks.hold(task.id, "one", None, None, None).progress == 0.5


def test_a_counted_release_raises_the_attempts_and_a_dead_lease_too(
    account: Account, clients: AwsClients, task: Task, clock: Any
) -> None:
    tasks = TableTasks(clients, account.name, lambda: clock.ms)
    first = claim(tasks, task, "one", clock)
    assert isinstance(first, Row)
    tasks.release(first, "one", counted=True, has_started=True)
    second = claim(tasks, task, "two", clock)
    assert isinstance(second, Row)
    assert second.attempts == 2
    clock.ms += 30_001
    third = claim(tasks, task, "three", clock)
    assert isinstance(third, Row)
    assert (third.attempts, third.claim) == (3, "three")


def test_an_aborted_poll_returns_at_once_and_none_is_begun_after_it(
    account: Account, clients: AwsClients
) -> None:
    consumer = Consumer(clients, account.queue, "", time.monotonic)
    outcome: list[type] = []

    def poll() -> None:
        try:
            consumer.receive(1, 20)
        except PollAbortedError as error:
            outcome.append(type(error))

    thread = threading.Thread(target=poll)
    thread.start()
    time.sleep(0.7)
    consumer.abort()
    thread.join(2)
    assert outcome == [PollAbortedError]
    with pytest.raises(PollAbortedError):
        consumer.receive(1, 20)
