"""What spans say of a task, whose trace they continue, and that nothing of tracing reaches the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

from sdctl import contract
from sdctl.contract import Task
from sdctl.task_record import Row
from sdctl_agent.errors import PermanentError
from sdctl_agent.job import DELETE, Job, Message, release_after
from sdctl_agent.tracing import QUEUE_TASKS, OtlpTracer

TRACE = "5759e988bd862e3fe1be46a994272793"
HEADER = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


class Kept(SpanExporter):
    """Keeps what it is given, after doing what it is told."""

    def __init__(self, before: Callable[[], Any] = lambda: None) -> None:
        self.spans: list[ReadableSpan] = []
        self._before = before

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._before()
        self.spans += spans
        return SpanExportResult.SUCCESS


def make_tracer(exporter: SpanExporter) -> OtlpTracer:
    tracer = OtlpTracer("comfyui", "https://sqs.example/1/queue", lambda: 107.0, lambda: exporter)
    tracer.open()
    return tracer


def make_job(header: str = HEADER) -> Job:
    job = Job(Message("m-1", "receipt", '{"secret": 1}', 1, 0, 100.0, trace=header), "token")
    content = {"prompt": "a secret", "init_images": ["https://example.com/i.png?key=secret"]}
    job.task = Task(id="dog", runtime="main", tasktype="pipeline", content=content)
    job.row = Row("dog", contract.RUNNING, runtime="main", attempts=2)
    job.steps = [("claim", 100.0, 100.1), ("prepare", 100.1, 101.0), ("store", 105.0, 106.0)]
    job.ran = (102.0, 105.0)
    job.end_status = contract.COMPLETED
    return job


def spans_of(*jobs: Job) -> list[ReadableSpan]:
    exporter = Kept()
    tracer = make_tracer(exporter)
    for job in jobs:
        tracer.settled(job, DELETE)
    tracer.close()
    return exporter.spans


def test_a_task_is_one_span_with_a_child_for_each_part_of_its_way() -> None:
    *children, task = spans_of(make_job())
    assert (task.name, task.kind) == ("task", SpanKind.CONSUMER)
    assert [child.name for child in children] == ["claim", "prepare", "run", "store"]
    assert task.context is not None
    assert {child.parent.span_id for child in children if child.parent} == {task.context.span_id}
    seconds = [((span.end_time or 0) - (span.start_time or 0)) / 1e9 for span in (*children, task)]
    assert seconds == pytest.approx([0.1, 0.9, 3, 1, 7], abs=1e-6)
    assert task.end_time == pytest.approx(time.time_ns(), abs=5e9)
    assert dict(task.attributes or {}) == {
        "messaging.system": "aws_sqs", "messaging.operation.type": "process",
        "messaging.destination.name": "queue", "messaging.message.id": "m-1", "sdctl.task.id": "dog",
        "sdctl.runtime.type": "comfyui", "sdctl.tasktype": "pipeline", "sdctl.settlement": "delete",
        "sdctl.runtime": "main", "sdctl.attempt": 2, "sdctl.status": "completed",
    }  # fmt: skip


def test_nothing_of_the_content_is_in_a_span() -> None:
    for span in spans_of(make_job()):
        text = span.to_json()
        assert "secret" not in text
        assert "receipt" not in text


def test_the_trace_that_sqs_carries_is_continued() -> None:
    *_, task = spans_of(make_job())
    assert task.context is not None
    assert task.parent is not None
    assert f"{task.context.trace_id:032x}" == TRACE
    assert f"{task.parent.span_id:016x}" == "53995c3f42cd8ad8"


@pytest.mark.parametrize(
    "header",
    [HEADER.replace("Sampled=1", "Sampled=0"), "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0"],
)
def test_what_its_sender_did_not_want_sampled_is_not_traced(header: str) -> None:
    assert spans_of(make_job(header)) == []


@pytest.mark.parametrize(
    "header",
    [
        "", "Root", "Root=1-zzzzzzzz-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
        "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=;Sampled=1", "=;=;=", "Root=1-0-0;Sampled=1",
        "Root=1-00000000-000000000000000000000000;Parent=0000000000000000;Sampled=1", "\0" * 5000,
    ],
)  # fmt: skip
def test_a_malformed_header_is_ignored(header: str) -> None:
    *_, task = spans_of(make_job(header))
    assert task.parent is None
    assert task.context is not None
    assert f"{task.context.trace_id:032x}" != TRACE


def test_why_a_task_failed_is_told_by_its_code_only() -> None:
    job = make_job()
    job.error = PermanentError("the prompt is bad: a secret", code="validation_error", node="3")
    *_, task = spans_of(job)
    assert task.status.status_code is StatusCode.ERROR
    assert task.attributes is not None
    assert task.attributes["error.type"] == "validation_error"


def test_a_message_without_a_task_is_not_traced() -> None:
    job = Job(Message("m", "r", "rubbish", 1, 0, 0.0), "token")
    assert spans_of(job, make_job())[-1].name == "task"


def test_an_exporter_that_hangs_blocks_nothing_and_holds_a_bounded_number_of_tasks() -> None:
    release = threading.Event()
    exporter = Kept(lambda: release.wait(20))
    tracer = make_tracer(exporter)
    started = time.monotonic()
    for _ in range(QUEUE_TASKS + 500):
        tracer.settled(make_job(), DELETE)
    assert time.monotonic() - started < 2
    assert tracer._waiting.qsize() <= QUEUE_TASKS
    started = time.monotonic()
    tracer.close()
    assert time.monotonic() - started < 1.5
    release.set()


def test_what_goes_wrong_in_tracing_is_a_line_in_the_log_and_the_next_task_is_traced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults: list[Exception] = [RuntimeError("https://user:secret@collector")]

    def explode_once() -> None:
        if faults:
            raise faults.pop()

    exporter = Kept(explode_once)
    tracer = make_tracer(exporter)
    broken = make_job()
    broken.steps = None  # type: ignore[assignment]
    tracer.settled(broken, DELETE)
    tracer.settled(make_job(), release_after(3))
    deadline = time.monotonic() + 10
    while faults and time.monotonic() < deadline:
        time.sleep(0.01)
    tracer.settled(make_job(), DELETE)
    tracer.close()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["tracing failed: TypeError", "tracing failed: RuntimeError"]
    assert len(exporter.spans) == 5


def test_the_end_does_not_wait_for_a_collector_that_refused_the_last_spans() -> None:
    class Refusing(SpanExporter):
        def __init__(self) -> None:
            self.asked = threading.Event()

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.asked.set()
            return SpanExportResult.FAILURE

    exporter = Refusing()
    tracer = make_tracer(exporter)
    tracer.settled(make_job(), DELETE)
    assert exporter.asked.wait(10)
    deadline = time.monotonic() + 10
    while not tracer._has_failed and time.monotonic() < deadline:
        time.sleep(0.01)
    started = time.monotonic()
    tracer.close()
    assert time.monotonic() - started < 0.5


def test_a_package_that_is_missing_is_named(caplog: pytest.LogCaptureFixture) -> None:
    def missing() -> SpanExporter:
        raise ModuleNotFoundError(name="opentelemetry.exporter")

    tracer = OtlpTracer("sdwebui", "q", lambda: 0.0, missing)
    tracer.open()
    assert tracer._thread is not None
    tracer._thread.join(10)
    assert "opentelemetry.exporter is not installed" in caplog.text
    assert "sdctl[tracing]" in caplog.text
