"""What each outcome of a task leads to: its end state, its notification, and its message."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sdctl import contract
from sdctl.contract import Task
from sdctl.task_record import Ending, Row
from sdctl_agent import table
from sdctl_agent.errors import (
    InterruptedRunError,
    PermanentError,
    RuntimeDownError,
    TransientError,
)
from sdctl_agent.handler import Clocks, Doors, Handler, Rules
from sdctl_agent.job import CANCELLED, DELETE, DRAIN, LEAVE, LOST, SET_ASIDE, TIMEOUT, Job, Message
from sdctl_agent.metrics import NoMetrics
from sdctl_agent.notify import Notifier
from sdctl_agent.pool import Pool
from sdctl_agent.runtimes.base import Output, Prepared, RunResult
from sdctl_agent.storage import PART_BYTES, Storage, parts_of
from sdctl_agent.table import MemoryTasks, Verdict, judge

NOW_MS = 1_800_000_000_000


def aws_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "Operation")


class Bucket:
    """S3 in memory, with the calls that the agent makes; `failures` are raised first."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failures: list[Exception] = []
        self.parts: dict[int, bytes] = {}
        self.aborted = 0

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.objects[Key] = Body

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Key not in self.objects:
            raise aws_error("NoSuchKey")
        return {"Body": io.BytesIO(self.objects[Key])}

    def create_multipart_upload(self, *, Bucket: str, Key: str, ContentType: str) -> dict[str, str]:
        return {"UploadId": "u"}

    def upload_part(
        self, *, Bucket: str, Key: str, UploadId: str, PartNumber: int, Body: bytes
    ) -> dict[str, str]:
        self.parts[PartNumber] = Body
        return {"ETag": str(PartNumber)}

    def complete_multipart_upload(
        self, *, Bucket: str, Key: str, UploadId: str, MultipartUpload: dict[str, Any]
    ) -> None:
        self.objects[Key] = b"".join(self.parts[part["PartNumber"]] for part in MultipartUpload["Parts"])

    def abort_multipart_upload(self, *, Bucket: str, Key: str, UploadId: str) -> None:
        self.aborted += 1


class Topic:
    def __init__(self) -> None:
        self.published: list[dict[str, Any]] = []
        self.failures: list[Exception] = []

    def publish(self, *, TopicArn: str, Message: str, MessageAttributes: dict[str, Any]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.published.append(json.loads(Message))


class Farm:
    """A handler with everything around it in memory; nothing waits."""

    def __init__(self, **rules: Any) -> None:
        self.now = 0.0
        self.seconds_a_look = 0.0
        self.now_ms = NOW_MS
        self.bucket, self.topic = Bucket(), Topic()
        self.tasks = MemoryTasks(lambda: self.now_ms)
        clients: Any = SimpleNamespace(client={"s3": self.bucket, "sns": self.topic}.__getitem__)
        runtime: Any = SimpleNamespace(
            task_types=frozenset({"text-to-image", "pipeline"}),
            prepare=lambda task, fetch: Prepared(task, None),
        )
        self.storage = Storage(clients, "bucket")
        self.handler = Handler(
            Doors(self.tasks, self.storage, Notifier(clients, "topic"), runtime, _no_fetch),
            Rules("main", 3, 60, **rules),
            Clocks(self.look_at_clock, lambda: self.now_ms, random.Random(1)),
            NoMetrics(),
            Pool("upload", 2, _raise),
        )

    def look_at_clock(self) -> float:
        self.now += self.seconds_a_look
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds
        self.now_ms += round(seconds * 1000)

    def job(self, document: Any = None, *, receive_count: int = 1, text: str = "") -> Job:
        body = text or json.dumps(document or task_message())
        return Job(Message("message-1", "receipt", body, receive_count, self.now_ms - 500, self.now), "token")

    def admitted(self, **options: Any) -> Job:
        job = self.job(**options)
        assert self.handler.admit(job) is None
        return job


def _no_fetch(url: str) -> Any:
    raise AssertionError(url)


def _raise(error: BaseException) -> None:
    raise error


def task_message(**metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"id": "dog", "tasktype": "text-to-image", "context": 7, **metadata},
        "content": {"prompt": "x"},
    }


def output(*chunks: bytes) -> Output:
    @contextmanager
    def opened() -> Iterator[Iterator[bytes]]:
        yield iter(chunks)

    return Output(opened)


@pytest.fixture
def farm() -> Farm:
    return Farm()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the back-off of a step pass at once; whether it was abandoned is still looked at."""
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: self.is_set())


def error_of(farm: Farm) -> dict[str, Any]:
    (result,) = farm.topic.published
    assert result["status"] == "failed"
    error: dict[str, Any] = result["error"]
    return error


def test_a_result_is_stored_ended_and_told_before_the_message_is_deleted(farm: Farm) -> None:
    job = farm.admitted()
    png = b"\x89PNG\r\n\x1a\n" + b"x" * 50
    job.result = RunResult((output(png), output(b"GIF89a", b"yy")), {"info": "ok"})
    assert farm.handler.conclude(job) == DELETE
    first, second = (contract.image_key("dog", "output", n, ext) for n, ext in ((1, "png"), (2, "gif")))
    assert farm.bucket.objects[first] == png
    assert farm.bucket.objects[second] == b"GIF89ayy"
    (result,) = farm.topic.published
    assert result["image_url"] == [f"s3://bucket/{first}", f"s3://bucket/{second}"]
    assert result["output_url"] == f"s3://bucket/{contract.answer_key('dog', 'output')}"
    assert (result["status"], result["context"], result["attempts"]) == ("completed", 7, 1)
    row = farm.tasks.look("dog")
    assert row is not None
    assert row.notified


def test_a_permanent_error_fails_the_task_at_once_with_its_reason(farm: Farm) -> None:
    job = farm.admitted()
    job.error = PermanentError("no such sampler", code="refused", node="3")
    assert farm.handler.conclude(job) == DELETE
    assert error_of(farm) == {"code": "refused", "message": "no such sampler", "node": "3"}


def test_a_transient_error_is_tried_again_later_and_later(farm: Farm) -> None:
    delays = []
    for count in (1, 2):
        job = farm.admitted(receive_count=count)
        job.error = TransientError("try again")
        settlement = farm.handler.conclude(job)
        assert settlement.action == "release"
        delays.append(settlement.delay_seconds)
    assert 5 <= delays[0] <= 7
    assert 10 <= delays[1] <= 13
    assert farm.topic.published == []


def test_the_last_attempts_transient_error_fails_the_task(farm: Farm) -> None:
    job = farm.admitted(receive_count=3)
    job.error = TransientError("try again", code="busy")
    assert farm.handler.conclude(job) == DELETE
    error = error_of(farm)
    assert error["code"] == "attempts_exhausted"
    assert "busy: try again" in error["message"]


def test_an_attempt_too_many_is_not_run(farm: Farm) -> None:
    assert farm.handler.admit(farm.job(receive_count=4)) == DELETE
    assert error_of(farm)["code"] == "attempts_exhausted"


def test_the_claim_that_finds_the_attempts_exhausted_is_not_one_of_them(farm: Farm) -> None:
    farm.handler.admit(farm.job(receive_count=4))
    (result,) = farm.topic.published
    assert (result["attempts"], result["error"]["message"]) == (
        3,
        "tried 3 times; it was interrupted each time",
    )


def test_seconds_of_waiting_for_the_gpu_and_of_storing_are_not_told_as_running(farm: Farm) -> None:
    job = farm.admitted()  # sent half a second ago
    farm.pass_seconds(4)  # fetched, and waited for its predecessor
    job.ran = (farm.now, farm.now + 2.5)
    farm.pass_seconds(2.5 + 1)  # a second until its outputs are stored
    job.result = RunResult((output(b"GIF89a"),), {})
    assert farm.handler.conclude(job) == DELETE
    (result,) = farm.topic.published
    assert result["timings"] == {"queued_seconds": 4.5, "run_seconds": 2.5, "total_seconds": 8.0}


def test_a_task_that_never_began_ran_for_no_time(farm: Farm) -> None:
    job = farm.admitted()
    farm.pass_seconds(3)
    job.stop(CANCELLED, farm.now)
    farm.handler.conclude(job)
    (result,) = farm.topic.published
    assert result["timings"]["run_seconds"] == 0


def test_a_runtime_that_went_away_gives_the_task_back_at_once(farm: Farm) -> None:
    job = farm.admitted()
    job.error = RuntimeDownError("gone")
    settlement = farm.handler.conclude(job)
    assert (settlement.action, settlement.delay_seconds) == ("release", 0)
    assert isinstance(job.error, RuntimeDownError)
    assert farm.topic.published == []


def test_an_interrupt_by_somebody_else_counts_as_an_attempt(farm: Farm) -> None:
    job = farm.admitted()
    job.error = InterruptedRunError("interrupted")
    assert farm.handler.conclude(job).delay_seconds >= 5


@pytest.mark.parametrize(
    "outcome", [InterruptedRunError("x"), PermanentError("x"), RuntimeDownError("x"), None]
)
@pytest.mark.parametrize(
    ("reason", "status", "action"),
    [
        (CANCELLED, "cancelled", "delete"),
        (TIMEOUT, "failed", "delete"),
        (DRAIN, None, "release"),
        (LOST, None, "leave"),
    ],
)
def test_why_a_job_was_stopped_counts_more_than_how_its_run_ended(
    farm: Farm, outcome: Any, reason: str, status: str | None, action: str
) -> None:
    job = farm.admitted()
    job.error = outcome
    job.result = None if outcome else RunResult((output(b"GIF89a"),), {})
    job.stop(reason, farm.now)
    settlement = farm.handler.conclude(job)
    assert (settlement.action, settlement.delay_seconds) == (action, 0)
    assert [result["status"] for result in farm.topic.published] == ([status] if status else [])
    assert farm.bucket.objects == {}


def test_an_output_that_is_empty_or_cannot_be_read_fails_the_task(farm: Farm) -> None:
    job = farm.admitted()
    job.result = RunResult((output(),), {})
    assert farm.handler.conclude(job) == DELETE
    assert error_of(farm)["code"] == "output_unreadable"


def test_a_failing_step_is_repeated_and_nothing_else(farm: Farm) -> None:
    job = farm.admitted()
    opened: list[int] = []

    @contextmanager
    def source() -> Iterator[Iterator[bytes]]:
        opened.append(1)
        yield iter([b"GIF89a"])

    job.result = RunResult((Output(source),), {})
    farm.bucket.failures = [aws_error("SlowDown"), aws_error("AccessDenied")]
    farm.topic.failures = [aws_error("InternalError")]
    assert farm.handler.conclude(job) == DELETE
    assert len(opened) == 1
    assert farm.topic.published[0]["status"] == "completed"


def test_a_step_that_fails_for_too_long_costs_an_attempt(farm: Farm) -> None:
    job = farm.admitted()
    job.result = RunResult((output(b"GIF89a"),), {})
    farm.bucket.failures = [aws_error("AccessDenied")] * 5

    farm.seconds_a_look = 400
    assert farm.handler.conclude(job).delay_seconds >= 5
    assert farm.topic.published == []


def test_storing_stops_when_the_task_is_lost(farm: Farm) -> None:
    job = farm.admitted()

    @contextmanager
    def source() -> Iterator[Iterator[bytes]]:
        job.stop(LOST, farm.now)
        yield iter([b"GIF89a"])

    job.result = RunResult((Output(source),), {})
    assert farm.handler.conclude(job) == LEAVE
    assert farm.topic.published == []
    assert contract.image_key("dog", "output", 1, "gif") not in farm.bucket.objects


def test_an_end_won_by_somebody_else_is_followed(farm: Farm) -> None:
    job = farm.admitted()
    job.result = RunResult((output(b"GIF89a"),), {})
    row = job.row
    assert row is not None
    farm.tasks.end(row, Ending("expired", NOW_MS))
    assert farm.handler.conclude(job) == DELETE
    assert [result["status"] for result in farm.topic.published] == ["expired"]


def test_a_duplicate_of_an_ended_task_is_deleted_without_a_word(farm: Farm) -> None:
    job = farm.admitted()
    job.result = RunResult((), {})
    farm.handler.conclude(job)
    assert farm.handler.admit(farm.job()) == DELETE
    assert len(farm.topic.published) == 1


def test_a_duplicate_of_a_running_task_waits_for_its_lease(farm: Farm) -> None:
    farm.admitted()
    settlement = farm.handler.admit(farm.job())
    assert settlement is not None
    assert (settlement.action, settlement.delay_seconds) == ("release", 31)


def test_a_result_that_was_told_but_not_recorded_is_told_again_in_the_same_words(farm: Farm) -> None:
    job = farm.admitted()
    job.result = RunResult((), {})
    recorded = farm.tasks.notified
    farm.tasks.notified = lambda row: None  # type: ignore[method-assign]
    farm.handler.conclude(job)
    farm.tasks.notified = recorded  # type: ignore[method-assign]
    farm.now_ms += 60_000
    assert farm.handler.admit(farm.job()) == DELETE
    assert len(farm.topic.published) == 2
    assert farm.topic.published[0] == farm.topic.published[1]


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '"x"', "{}", '{"Message":"nonsense","TopicArn":"a"}'])
def test_what_is_no_task_is_set_aside(farm: Farm, text: str) -> None:
    assert farm.handler.admit(farm.job(text=text or " ")) == SET_ASIDE


def test_an_invalid_task_fails_with_every_problem(farm: Farm) -> None:
    assert farm.handler.admit(farm.job({"metadata": {"id": "dog", "tasktype": "poem"}})) == DELETE
    error = error_of(farm)
    assert error["code"] == "invalid_task"
    assert "content" in error["message"]
    assert "poem" in error["message"]


def test_a_direct_publish_past_its_deadline_expires(farm: Farm) -> None:
    assert farm.handler.admit(farm.job(task_message(deadline_seconds=0.4))) == DELETE
    assert farm.topic.published[0]["status"] == "expired"


@pytest.mark.parametrize(
    ("pointer", "stored"),
    [
        (("elsewhere", ".sdctl/tasks/x"), b"{}"),
        (("bucket", "output/x"), b"{}"),
        (("bucket", ".sdctl/tasks/../secret"), b"{}"),
        (("bucket", ".sdctl/tasks/x"), None),
        (("bucket", ".sdctl/tasks/x"), b"[]"),
        (("bucket", ".sdctl/tasks/x"), b"nonsense"),
        (("bucket", ".sdctl/tasks/x"), b"{" + b" " * contract.MAX_BODY_BYTES + b"}"),
    ],
)
def test_content_in_s3_is_read_only_where_it_may_be_and_only_if_it_is_content(
    farm: Farm, pointer: tuple[str, str], stored: bytes | None
) -> None:
    if stored is not None:
        farm.bucket.objects[pointer[1]] = stored
    message = {
        "metadata": task_message()["metadata"],
        "content_pointer": {"bucket": pointer[0], "key": pointer[1]},
    }
    job = farm.admitted(document=message)
    with pytest.raises(PermanentError):
        farm.handler.prepare(job)


def test_content_in_s3_takes_the_place_of_the_messages(farm: Farm) -> None:
    farm.bucket.objects[".sdctl/tasks/x"] = b'{"prompt":"far"}'
    message = {
        "metadata": task_message()["metadata"],
        "content_pointer": {"bucket": "bucket", "key": ".sdctl/tasks/x"},
    }
    job = farm.admitted(document=message)
    farm.handler.prepare(job)
    assert job.task is not None
    assert job.task.content == {"prompt": "far"}


ROW = Row(id="dog", status="queued")


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"status": "completed", "notified": True}, Verdict.DELETE),
        ({"status": "cancelled"}, Verdict.ANNOUNCE),
        ({"status": "running", "claim_until": NOW_MS}, Verdict.LEAVE),
        ({"status": "running", "claim_until": NOW_MS, "cancel_requested": True}, Verdict.LEAVE),
        ({"status": "running", "claim_until": NOW_MS - 1, "cancel_requested": True}, Verdict.CANCEL),
        ({"cancel_requested": True}, Verdict.CANCEL),
        ({"deadline_at": NOW_MS}, Verdict.EXPIRE),
        ({"deadline_at": NOW_MS, "started_at": NOW_MS - 5}, Verdict.AGAIN),
        ({"deadline_at": NOW_MS + 1}, Verdict.AGAIN),
        ({}, Verdict.AGAIN),
    ],
)
def test_a_refused_claim_is_judged_by_the_row_in_its_way(changes: dict[str, Any], verdict: Verdict) -> None:
    assert judge(dataclasses.replace(ROW, **changes), NOW_MS) is verdict


@pytest.mark.parametrize("sizes", [[], [0], [1], [PART_BYTES], [PART_BYTES + 1], [3, PART_BYTES * 2, 5]])
def test_parts_have_the_size_that_s3_needs_and_lose_nothing(sizes: list[int]) -> None:
    chunks = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    parts = list(parts_of(iter(chunks)))
    assert b"".join(parts) == b"".join(chunks)
    assert all(len(part) == PART_BYTES for part in parts[:-1])
    assert all(parts)


def test_a_large_output_is_stored_in_parts(farm: Farm) -> None:
    job = farm.admitted()
    data = b"GIF89a" + bytes(PART_BYTES * 2)
    job.result = RunResult((output(data[:100], data[100:]),), {})
    assert farm.handler.conclude(job) == DELETE
    assert farm.bucket.objects[contract.image_key("dog", "output", 1, "gif")] == data
    assert sorted(farm.bucket.parts) == [1, 2, 3]


def test_a_large_output_that_breaks_off_leaves_no_parts_behind(farm: Farm) -> None:
    job = farm.admitted()

    @contextmanager
    def source() -> Iterator[Iterator[bytes]]:
        def chunks() -> Iterator[bytes]:
            yield b"GIF89a" + bytes(PART_BYTES * 2)
            raise RuntimeDownError("gone")

        yield chunks()

    job.result = RunResult((Output(source),), {})
    assert farm.handler.conclude(job).action == "release"
    assert farm.bucket.aborted == 1
    assert farm.topic.published == []


def test_memory_forgets_old_ends_but_no_task_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "REMEMBERED_TASKS", 3)
    tasks = MemoryTasks(lambda: NOW_MS)
    rows: list[Any] = []
    for number in range(6):
        task = Task(id=f"t{number}", runtime="main", tasktype="text-to-image", content={})
        rows.append(tasks.claim_unseen(task, "token", NOW_MS, 1))
        if number:
            tasks.end(rows[-1], Ending("completed", NOW_MS))
    assert tasks.look("t0") == rows[0]
    assert tasks.look("t1") is None
    assert tasks.look("t5") is not None
