"""Whatever happens in whatever order, a task ends once, is told of, and is never lost.

The real handler of several agents and the real API, sweep and dead-letter code work on a table in memory
with conditional writes and on a queue that delivers at least once. Agents are killed, answers are lost and
others come in between, at any single call to the outside.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fakes.agent_runtime import png
from fakes.conditional_table import ConditionalTable, Item
from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl.task_record import Row, row_from_item
from sdctl_agent.errors import PermanentError, RuntimeDownError, TransientError
from sdctl_agent.handler import Clocks, Doors, Handler, Rules
from sdctl_agent.job import CANCELLED, DRAIN, LOST, TIMEOUT, YIELD, Job, Message, Settlement
from sdctl_agent.metrics import NoMetrics
from sdctl_agent.notify import Notifier
from sdctl_agent.runtimes.base import Prepared, RunResult, memory_output
from sdctl_agent.storage import Storage
from sdctl_agent.table import (
    LostClaimError,
    MemoryTasks,
    Refused,
    TableTasks,
    Verdict,
    judge,
    look_again_seconds,
)
from sdctl_api.changes import Changer
from sdctl_api.exchange import ApiError
from sdctl_api.submit import Submitter
from sdctl_dead_letters.letters import Ender
from sdctl_lambda.contents import Contents
from sdctl_lambda.records import LeaveError
from sdctl_lambda.table import Table
from sdctl_lambda.topics import QueueUnavailableError, Topics
from sdctl_sweep.sweeping import Sweeper

START_MS = 1_800_000_000_000
MAX_ATTEMPTS = 3
MAX_RECEIVES = MAX_ATTEMPTS + 20
NAMES = ("dog", "cat")


class KilledError(BaseException):
    """The process is gone in the middle of a call."""


class InstantEvent(threading.Event):
    """Lets a back-off pass at once."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


class InlinePool:
    """Does what is to be done side by side one after the other."""

    def map(self, calls: list[Callable[[], Any]]) -> list[Any]:
        return [call() for call in calls]


class Delivery:
    """One message in the queue; `visible_at` in ms."""

    def __init__(self, number: int, body: str, now_ms: int) -> None:
        self.number, self.body, self.sent_ms = number, body, now_ms
        self.visible_at, self.receives = now_ms, 0


class World:
    """The account, the functions and the agents; checks each write as it is made."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.table = ConditionalTable(self.written, lambda operation: self.called(operation))  # noqa: PLW0108 - late
        self.queue: dict[int, Delivery] = {}
        self.dead: dict[int, Delivery] = {}
        self.numbers, self.tokens = itertools.count(), itertools.count()
        self.objects: dict[str, bytes] = {}
        self.told: list[str] = []
        self.generation: Counter[str] = Counter()
        self.expected: dict[tuple[str, int], str] = {}
        self.unexplained = 0
        self.runs: Counter[tuple[str, int]] = Counter()
        self.hand_backs: Counter[tuple[str, int]] = Counter()
        self.calls = 0
        self.plan: dict[int, Callable[[str], bool]] = {}
        self.actor = ""  # the token of the agent at work
        self.counts = False  # whether what it does is an attempt
        self.is_harmed = False  # whether anything happened that excuses a repeated notification
        self.agents = [self.agent() for _ in range(2)]
        self.held: list[set[tuple[Job, Delivery, int]]] = [set() for _ in self.agents]
        table, topics = Table(self, "tasks"), Topics(self, input_arn="in", output_arn="out")  # type: ignore[arg-type]
        contents = Contents(self, "bucket")  # type: ignore[arg-type]
        clock = lambda: self.now_ms  # noqa: E731
        self.submitter = Submitter(table, topics, contents, clock)
        self.changer = Changer(table, topics, contents, clock, is_deployed="main".__eq__)
        self.sweeper = Sweeper(table, topics, contents, clock)
        self.ender = Ender(table, topics, clock)

    # -- what the clients call ------------------------------------------------------------------------

    def client(self, service: str) -> Any:
        return self.table if service == "dynamodb" else self

    def called(self, operation: str) -> bool:
        """Do what was planned for this call; tell whether its answer is lost."""
        self.calls += 1
        action = self.plan.pop(self.calls, None)
        return action(operation) if action is not None else False

    def publish(self, *, TopicArn: str, Message: str, MessageAttributes: Any) -> None:
        is_lost = self.called("publish")
        if TopicArn == "in":
            self.send(Message)
        else:
            self.told.append(Message)
            name = json.loads(Message)["id"]
            assert Message in {text for (task, _), text in self.expected.items() if task == name}
        if is_lost:
            raise ClientError({"Error": {"Code": "InternalError", "Message": "lost"}}, "Publish")
        self.called("after publish")

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:
        if self.called("put_object"):
            raise ClientError({"Error": {"Code": "SlowDown", "Message": "no"}}, "PutObject")
        self.objects[Key] = bytes(Body)

    # -- every write --------------------------------------------------------------------------------------

    def written(self, old_item: Item | None, new_item: Item) -> None:
        new = row_from_item(new_item)
        if (new.is_ended and not new.notified) or (new.status == contract.QUEUED and not new.published):
            assert "open_runtime" in new_item, "nobody would look after it"
            assert new.open_until <= self.now_ms + task_record.UNSETTLED_MS
        if old_item is None:
            assert new.status == contract.QUEUED or new.is_ended or new.attempts == 1
        else:
            self.changed(row_from_item(old_item), new, int(old_item.get("step", {"N": "1"})["N"]))
        if new.is_ended and not (old_item and row_from_item(old_item).is_ended):
            self.expected[new.id, self.generation[new.id]] = task_record.result_notification(new)

    def changed(self, old: Row, new: Row, step: int) -> None:
        """Check one change of a row."""
        is_retry = old.is_ended and new.status == contract.QUEUED
        if old.is_ended and not is_retry:
            assert task_record.result_notification(new) == task_record.result_notification(old)
            assert new.is_ended, "an ended row was claimed"
            return
        if is_retry:
            assert old.status in contract.RETRYABLE_STATUSES
            assert old.notified, "an end was forgotten before it was told"
            assert new.attempts == old.attempts + 1
            self.generation[new.id] += 1
            return
        if new.is_ended and new.error is not None and new.error["code"] == "attempts_exhausted":
            # The claim that found it out was no attempt.
            assert new.attempts == new.retry_base + MAX_ATTEMPTS
        else:
            assert new.attempts >= old.attempts, "attempts fell"
        if new.status == contract.RUNNING and new.claim != old.claim:
            if old.status == contract.RUNNING:
                assert old.claim_until < self.now_ms, "two live claims"
                assert new.attempts == old.attempts + 1
            else:
                assert new.attempts == old.attempts + step
            assert not old.cancel_requested
        if old.status == contract.RUNNING and new.is_ended and old.claim_until >= self.now_ms:
            assert self.actor == old.claim, "ended under the hands of the agent that runs it"
        if old.status == contract.RUNNING and new.status == contract.QUEUED:
            assert self.actor == old.claim
            assert new.attempts - old.attempts == self.counts
            self.hand_backs[new.id, self.generation[new.id]] += new.attempts == old.attempts

    # -- the agents ---------------------------------------------------------------------------------------

    def agent(self) -> Handler:
        clients: Any = self
        runtime: Any = SimpleNamespace(
            task_types=frozenset({"text-to-image"}), prepare=lambda task, fetch: Prepared(task, None)
        )
        fetch: Any = None
        pool: Any = InlinePool()
        doors = Doors(
            TableTasks(clients, "tasks", lambda: self.now_ms), Storage(clients, "bucket"),
            Notifier(clients, "out"), runtime, fetch,
        )  # fmt: skip
        clocks = Clocks(lambda: self.now_ms / 1000, lambda: self.now_ms, random.Random(1))
        return Handler(doors, Rules("main", MAX_ATTEMPTS, 3600), clocks, NoMetrics(), pool)

    def send(self, body: str) -> None:
        delivery = Delivery(next(self.numbers), body, self.now_ms)
        self.queue[delivery.number] = delivery

    def has_row(self, accepts: Callable[[Row], bool]) -> bool:
        return any(accepts(row_from_item(item)) for item in self.table.items.values())

    def visible(self) -> list[Delivery]:
        return [delivery for delivery in self.queue.values() if delivery.visible_at <= self.now_ms]

    def receive(self, agent: int, delivery: Delivery) -> None:
        """Receive a message and admit its task; what is not settled at once is held."""
        delivery.receives += 1
        if delivery.receives > MAX_RECEIVES:
            self.dead[delivery.number] = self.queue.pop(delivery.number)
            return
        delivery.visible_at = self.now_ms + contract.VISIBILITY_SECONDS * 1000
        message = Message(
            f"m{delivery.number}", "", delivery.body, delivery.receives, delivery.sent_ms, self.now_ms / 1000
        )
        job = Job(message, f"token-{next(self.tokens)}")
        job.abandoned = InstantEvent()
        receives = delivery.receives
        with self.acting(job.token):
            settlement = self.agents[agent].admit(job)
        if settlement is not None:
            self.settle(delivery, receives, settlement)
            return
        job.is_admitted = True
        assert job.row is not None
        self.runs[job.row.id, self.generation[job.row.id]] += 1
        assert job.row.attempts - job.row.retry_base <= MAX_ATTEMPTS
        self.held[agent].add((job, delivery, receives))

    def conclude(self, agent: int, held: tuple[Job, Delivery, int], outcome: str) -> None:
        job, delivery, receives = held
        self.held[agent].discard(held)
        match outcome:
            case "result":
                job.result = RunResult((memory_output(png()),), {"parameters": {}})
            case "refused":
                job.error = PermanentError("no such sampler", code="runtime_refused")
            case "transient":
                job.error = TransientError("try again")
            case "down":
                job.error = RuntimeDownError("gone")
            case _:
                job.stop(outcome, self.now_ms / 1000)
        with self.acting(job.token, counts=outcome == "transient"):
            settlement = self.agents[agent].conclude(job)
        self.settle(delivery, receives, settlement)

    @contextlib.contextmanager
    def acting(self, token: str, *, counts: bool = False) -> Iterator[None]:
        before = self.actor, self.counts
        self.actor, self.counts = token, counts
        try:
            yield
        finally:
            self.actor, self.counts = before

    def settle(self, delivery: Delivery, receives: int, settlement: Settlement) -> None:
        if settlement.action == "delete":
            row = row_from_item(self.table.items[json.loads(delivery.body)["metadata"]["id"]])
            assert row.is_ended, "a message was deleted whose task has not ended"
            assert row.notified, "a message was deleted before its task's end was told"
            self.queue.pop(delivery.number, None)
        elif settlement.action == "release" and receives == delivery.receives:
            delivery.visible_at = self.now_ms + settlement.delay_seconds * 1000

    def beat(self, agent: int) -> None:
        """Extend everything that an agent holds, as its heartbeat does every 10 seconds."""
        for held in sorted(self.held[agent], key=lambda each: each[0].token):
            job, delivery, receives = held
            self.actor = job.token
            if receives == delivery.receives and delivery.number in self.queue:
                delivery.visible_at = self.now_ms + contract.VISIBILITY_SECONDS * 1000
            try:
                call = task_record.hold_call(job.task_id, job.token, self.now_ms, progress=0.5)
                row = row_from_item(self.table.update_item(TableName="tasks", **call)["Attributes"])
            except ClientError:
                self.conclude(agent, held, LOST)
                continue
            if row.cancel_requested:
                self.conclude(agent, held, CANCELLED)

    def kill(self, agent: int) -> None:
        self.is_harmed = True
        self.held[agent].clear()

    # -- the others ---------------------------------------------------------------------------------------

    def submit(self, name: str, deadline_seconds: float | None) -> None:
        task = self.task(name, deadline_seconds)
        if name not in self.table.items:
            self.submitter.submit(task)

    def publish_directly(self, name: str, deadline_seconds: float | None) -> None:
        if name not in self.table.items and not self.queue:
            self.send(contract.message_body(self.task(name, deadline_seconds)))

    @staticmethod
    def task(name: str, deadline_seconds: float | None) -> Task:
        return Task(
            name, "main", "text-to-image", {"prompt": name}, context={"n": name},
            deadline_seconds=deadline_seconds, route=(contract.ROUTE_RUNTIME, "main"),
        )  # fmt: skip

    def ask(self, change: Callable[[str], Row], name: str) -> None:
        try:
            change(name)
        except ApiError:
            return  # it cannot be cancelled or retried as it is

    def sweep(self) -> None:
        self.sweeper.sweep(["main"], lambda: True)

    def end_dead(self, number: int) -> None:
        delivery = self.dead[number]
        task = contract.parse_message(
            delivery.body, runtime="main", task_types=["text-to-image"], message_id=f"m{number}"
        )
        try:
            self.ender.end(task, delivery.sent_ms)
        except (LeaveError, QueueUnavailableError):
            return
        del self.dead[number]

    # -- what must hold in the end --------------------------------------------------------------------------

    def is_settled(self) -> bool:
        rows = [row_from_item(item) for item in self.table.items.values()]
        return not self.queue and not self.dead and all(row.is_ended and row.notified for row in rows)

    def calm_down(self) -> None:
        """Let everything take its course without another fault."""
        self.plan.clear()
        for agent, held in enumerate(self.held):
            for each in sorted(held, key=lambda each: each[0].token):
                self.conclude(agent, each, "result")
        for _ in range(60):
            for delivery in self.visible():
                self.receive(0, delivery)
            for each in sorted(self.held[0], key=lambda each: each[0].token):
                self.conclude(0, each, "result")
            self.sweep()
            for number in list(self.dead):
                self.end_dead(number)
            if self.is_settled():
                return
            self.now_ms += 31_000
        raise AssertionError(f"never settled: {self.table.items}, {[vars(d) for d in self.queue.values()]}")

    def check_end(self) -> None:
        self.calm_down()
        for key, text in self.expected.items():
            assert text in self.told, f"{key} was never told"
        if not self.is_harmed:
            assert len(self.told) == len(set(self.told)), "told twice without need"
        for item in self.table.items.values():
            row = row_from_item(item)
            assert not {"open_runtime", "open_until", "claim", "claim_until", "step"} & item.keys()
            listed = {url.removeprefix("s3://bucket/") for url in (*row.image_url, row.output_url) if url}
            stored = {key for key in self.objects if f"/{row.id}/" in key}
            if row.status == contract.COMPLETED:
                assert listed == stored, "one set of files"
                assert len(row.image_url) == 1
        for key, runs in self.runs.items():
            assert runs <= MAX_ATTEMPTS + self.hand_backs[key], f"{key} ran too often"


agents = st.integers(0, 1)
names = st.sampled_from(NAMES)
deadlines = st.sampled_from([None, None, 5.0, 100.0])
outcomes = st.sampled_from(
    ["result", "result", "result", "refused", "transient", "transient", "down", DRAIN, YIELD, TIMEOUT, LOST]
)
# At which call of the operation the fault comes, and which; most operations have none.
faults = st.one_of(
    st.none(),
    st.none(),
    st.tuples(st.integers(1, 9), st.sampled_from(["kill", "lose", "other", "late"])),
)


class Settling(RuleBasedStateMachine):
    """Everything that can happen to tasks, one call at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def run(self, agent: int, fault: tuple[int, str] | None, operation: Callable[[], None]) -> None:
        """Do an operation, with at most one fault at one of its calls."""
        world = self.world
        world.plan.clear()
        if fault is not None:
            number, kind = fault
            world.plan[world.calls + number] = lambda called: self.strike(kind, called, 1 - agent)
        try:
            operation()
        except KilledError:
            world.kill(agent)
        except QueueUnavailableError:
            return
        finally:
            world.plan.clear()

    def strike(self, kind: str, called: str, other: int) -> bool:
        world = self.world
        world.is_harmed |= kind != "other"
        if kind == "kill":
            raise KilledError
        if kind == "lose":
            return not called.startswith("after") and called != "get_item"
        if kind == "late":
            world.now_ms += 32_000
        for delivery in world.visible():
            world.receive(other, delivery)
        for held in sorted(world.held[other], key=lambda each: each[0].token):
            world.conclude(other, held, "result")
        return False

    @initialize(name=names, deadline=deadlines, directly=st.booleans())
    def begin(self, name: str, deadline: float | None, directly: bool) -> None:
        if directly:
            self.world.publish_directly(name, deadline)
        else:
            self.world.submit(name, deadline)

    @precondition(lambda self: len(self.world.table.items) < len(NAMES))
    @rule(name=names, deadline=deadlines, fault=faults)
    def submit(self, name: str, deadline: float | None, fault: tuple[int, str] | None) -> None:
        self.run(0, fault, lambda: self.guarded_submit(name, deadline))

    def guarded_submit(self, name: str, deadline: float | None) -> None:
        try:
            self.world.submit(name, deadline)
        except ApiError:
            return

    @precondition(lambda self: not self.world.queue)
    @rule(name=names, deadline=deadlines)
    def publish_directly(self, name: str, deadline: float | None) -> None:
        self.world.publish_directly(name, deadline)

    @precondition(lambda self: 0 < len(self.world.queue) < 4)
    @rule(index=st.integers(0, 5))
    def duplicate(self, index: int) -> None:
        deliveries = list(self.world.queue.values())
        original = deliveries[index % len(deliveries)]
        self.world.send(original.body)
        copy = self.world.queue[max(self.world.queue)]
        copy.sent_ms = original.sent_ms

    @precondition(lambda self: self.world.visible())
    @rule(agent=agents, index=st.integers(0, 5), fault=faults)
    def receive(self, agent: int, index: int, fault: tuple[int, str] | None) -> None:
        visible = self.world.visible()
        delivery = visible[index % len(visible)]
        self.run(agent, fault, lambda: self.world.receive(agent, delivery))

    @precondition(lambda self: any(self.world.held))
    @rule(agent=agents, outcome=outcomes, fault=faults)
    def conclude(self, agent: int, outcome: str, fault: tuple[int, str] | None) -> None:
        agent = agent if self.world.held[agent] else 1 - agent
        held = sorted(self.world.held[agent], key=lambda each: each[0].token)
        self.run(agent, fault, lambda: self.world.conclude(agent, held[0], outcome))

    @precondition(lambda self: any(self.world.held))
    @rule(agent=agents)
    def beat(self, agent: int) -> None:
        self.run(agent, None, lambda: self.world.beat(agent))

    @precondition(lambda self: any(self.world.held))
    @rule(agent=agents)
    def kill(self, agent: int) -> None:
        self.world.kill(agent)

    @rule(seconds=st.sampled_from([1, 4, 10, 29, 31, 125]))
    def wait(self, seconds: int) -> None:
        self.world.now_ms += seconds * 1000

    @precondition(lambda self: self.world.has_row(lambda row: not row.is_ended))
    @rule(name=names, fault=faults)
    def cancel(self, name: str, fault: tuple[int, str] | None) -> None:
        self.run(0, fault, lambda: self.world.ask(self.world.changer.cancel, name))

    @precondition(lambda self: self.world.has_row(lambda row: row.is_ended))
    @rule(name=names, fault=faults)
    def retry(self, name: str, fault: tuple[int, str] | None) -> None:
        self.run(0, fault, lambda: self.world.ask(self.world.changer.retry, name))

    @precondition(lambda self: self.world.has_row(lambda row: 0 < row.open_until < self.world.now_ms))
    @rule(fault=faults)
    def sweep(self, fault: tuple[int, str] | None) -> None:
        self.run(0, fault, self.world.sweep)

    @precondition(lambda self: any(each.receives > 2 for each in self.world.visible()))
    @rule(index=st.integers(0, 5))
    def give_up_a_message(self, index: int) -> None:
        """Let the redrive policy have a message, as after too many receives."""
        visible = [each for each in self.world.visible() if each.receives > 2]
        delivery = visible[index % len(visible)]
        self.world.dead[delivery.number] = self.world.queue.pop(delivery.number)

    @precondition(lambda self: self.world.dead)
    @rule(fault=faults)
    def end_the_dead(self, fault: tuple[int, str] | None) -> None:
        for number in list(self.world.dead):
            self.run(0, fault, lambda number=number: self.world.end_dead(number))  # type: ignore[misc]

    @invariant()
    def nobody_holds_what_is_ended_for_good(self) -> None:
        for item in self.world.table.items.values():
            row = row_from_item(item)
            assert not (row.is_ended and row.claim)

    def teardown(self) -> None:
        self.world.check_end()


def test_whatever_happens_a_task_ends_once_is_told_of_and_is_never_lost() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Settling, settings=settings(max_examples=120, stateful_step_count=40, deadline=None)
    )


class LossyAnswers:
    """Has the answer of the next write lost."""

    def __init__(self) -> None:
        self.left = 1

    def __call__(self, operation: str) -> bool:
        is_lost = operation == "update_item" and self.left > 0
        self.left -= is_lost
        return is_lost


def submitted(world: World) -> tuple[Job, Handler]:
    """Submit a task, and make the job that receives it."""
    world.submit("dog", None)
    delivery = next(iter(world.queue.values()))
    message = Message("m", "", delivery.body, 1, delivery.sent_ms, world.now_ms / 1000)
    return Job(message, "token"), world.agents[0]


def test_a_claim_whose_answer_was_lost_is_known_as_ones_own() -> None:
    world = World()
    job, agent = submitted(world)
    world.called = LossyAnswers()  # type: ignore[method-assign]
    assert agent.admit(job) is None
    assert job.row is not None
    assert job.row.attempts == 1


def test_a_hand_back_whose_answer_was_lost_still_frees_the_message_at_once() -> None:
    world = World()
    job, agent = submitted(world)
    assert agent.admit(job) is None
    job.is_admitted = True
    job.stop(DRAIN, 0.0)
    world.called = LossyAnswers()  # type: ignore[method-assign]
    with world.acting("token"):
        assert agent.conclude(job) == Settlement("release", 0)


def test_an_end_is_left_to_whoever_won_it_for_some_seconds() -> None:
    row = Row("dog", contract.COMPLETED, finished_at=START_MS)
    assert judge(row, START_MS + 4_000) == Verdict.LEAVE
    assert judge(row, START_MS + 6_000) == Verdict.ANNOUNCE
    assert 1 < look_again_seconds(row, START_MS + 1_000) <= 6
    ahead = Row("dog", contract.COMPLETED, finished_at=START_MS + 3_600_000)
    assert look_again_seconds(ahead, START_MS) <= contract.VISIBILITY_SECONDS + 1


def test_without_a_table_a_task_that_was_lost_can_be_run_again_once_its_lease_is_over() -> None:
    now = [START_MS]
    tasks = MemoryTasks(lambda: now[0])
    task = World.task("dog", None)
    first = tasks.claim_unseen(task, "one", START_MS, 1)
    assert isinstance(first, Row)
    now[0] += 29_000
    assert isinstance(tasks.claim("dog", "two", 2), Refused)
    now[0] += 2_000
    second = tasks.claim("dog", "two", 2)
    assert isinstance(second, Row)
    assert (second.claim, second.attempts) == ("two", 2)
    with pytest.raises(LostClaimError):
        tasks.hold("dog", "one", None, None, None)


def test_a_duplicate_that_comes_between_an_end_and_its_notification_tells_nothing() -> None:
    world = World()
    world.submit("dog", None)
    first = world.queue[0]
    world.receive(0, first)
    world.send(first.body)
    (held,) = world.held[0]

    def duplicate_comes(operation: str) -> bool:
        row = row_from_item(world.table.items["dog"])
        if operation == "publish" and row.is_ended and 1 in world.queue:
            world.called = lambda operation: False  # type: ignore[method-assign]
            world.receive(1, world.queue[1])
        return False

    world.called = duplicate_comes  # type: ignore[method-assign]
    world.conclude(0, held, "result")
    assert len(world.told) == 1
    world.check_end()
    assert len(world.told) == 1
