"""OpenTelemetry spans, sent over OTLP/HTTP: one a task, with a child for each part of its way.

A task is traced after the fact. While it is worked on nothing of OpenTelemetry runs: the stages only note
from when to when they took. Once its message is settled, those times go into a bounded queue, and one
thread makes spans of them and exports them. So tracing cannot change, delay or repeat the work: what goes
wrong ends up in a log line, what a slow collector cannot take is dropped, and the process's end waits for
at most a second. Without an endpoint nothing is imported and nothing is noted.

What may leave in a span: ids, names, numbers and states. No prompt, URL, key or header.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from sdctl_agent.job import Job, Settlement

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

# What waits to be exported: minutes of the quickest tasks, and less than a megabyte.
QUEUE_TASKS = 1000
BATCH_TASKS = 100
# One export with its retries. A collector stands in the same cluster.
EXPORT_SECONDS = 5.0
# After a failed export nothing is tried for this long, and nothing more is said.
PAUSE_SECONDS = 30.0
CLOSE_SECONDS = 1.0
_XRAY_HEADER = "X-Amzn-Trace-Id"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TracedTask:
    """The times of one settled task, of the monotonic clock, and what its span says of it."""

    header: str  # X-Ray's, as SQS gave it
    start: float
    end: float
    parts: Sequence[tuple[str, float, float]]
    attributes: dict[str, str | int]
    error_code: str = ""


class Tracer(Protocol):
    """Where settled jobs are told to."""

    def open(self) -> None:
        """Make ready what takes time; called once, in the background."""
        ...

    def settled(self, job: Job, settlement: Settlement) -> None:
        """Take note of a job whose message was settled; never blocks, never raises."""
        ...

    def close(self) -> None:
        """Send what is left, for at most a second."""
        ...


class NoTracer:
    """Traces nothing."""

    def open(self) -> None:
        """Do nothing."""

    def settled(self, job: Job, settlement: Settlement) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class OtlpTracer:
    """Exports spans to the endpoint of the `OTEL_EXPORTER_OTLP_…` variables, which the library reads."""

    def __init__(
        self,
        runtime_type: str,
        queue_url: str,
        now: Callable[[], float],
        make_exporter: Callable[[], SpanExporter] | None = None,
    ) -> None:
        self._runtime_type = runtime_type
        self._queue_name = queue_url.rpartition("/")[2]
        self._now = now
        self._make_exporter = make_exporter or _otlp_exporter
        self._waiting: queue.Queue[TracedTask | None] = queue.Queue(QUEUE_TASKS)
        self._ended = threading.Event()
        self._closing = threading.Event()
        self._has_failed = False  # the last export
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start the thread that imports OpenTelemetry and exports."""
        self._thread = threading.Thread(target=self._contained, args=(self._export_loop,), name="tracing")
        self._thread.daemon = True
        self._thread.start()

    def settled(self, job: Job, settlement: Settlement) -> None:
        """Put a job's times into the queue, or drop them where that is full."""
        self._contained(lambda: self._note(job, settlement))

    def close(self) -> None:
        """Let the thread send what it has, for at most a second; a collector that is down gets none."""
        self._closing.set()
        if self._thread is not None and not self._has_failed:
            self._contained(lambda: self._waiting.put(None, timeout=CLOSE_SECONDS / 10))
            self._ended.wait(CLOSE_SECONDS)

    def _contained(self, work: Callable[[], None]) -> None:
        """Keep whatever tracing does wrong away from the work: the one boundary."""
        try:
            work()
        except queue.Full:
            log.debug("a trace was dropped: the collector is behind", extra={"action": "trace_dropped"})
        except Exception as error:  # noqa: BLE001 - tracing must never change the work
            log.warning("tracing failed: %s", _reason(error), extra={"action": "tracing_failed"})

    def _note(self, job: Job, settlement: Settlement) -> None:
        if job.task is not None and not self._ended.is_set():
            self._waiting.put_nowait(self._traced(job, job.task.tasktype, settlement))

    def _traced(self, job: Job, tasktype: str, settlement: Settlement) -> TracedTask:
        attributes: dict[str, str | int] = {
            "messaging.system": "aws_sqs",
            "messaging.operation.type": "process",
            "messaging.destination.name": self._queue_name,
            "messaging.message.id": job.message.id,
            "sdctl.task.id": job.task_id,
            "sdctl.runtime.type": self._runtime_type,
            "sdctl.tasktype": tasktype,
            "sdctl.settlement": settlement.action,
        }
        if job.row is not None:
            attributes["sdctl.runtime"] = job.row.runtime
            attributes["sdctl.attempt"] = job.row.attempts
        if job.end_status:
            attributes["sdctl.status"] = job.end_status
        if job.reason:
            attributes["sdctl.stopped"] = job.reason
        parts = list(job.steps)
        if job.ran is not None:
            parts.append(("run", *job.ran))
        error = job.error.code if job.error is not None else ""
        return TracedTask(job.message.trace, job.message.received_at, self._now(), parts, attributes, error)

    # -- the exporting thread -----------------------------------------------------------------------

    def _export_loop(self) -> None:
        try:
            spans = _Spans(self._now)
            exporter = self._make_exporter()
            is_open = True
            while is_open:
                batch, is_open = self._batch()
                self._contained(partial(self._export, exporter, spans, batch))
        finally:
            self._ended.set()

    def _batch(self) -> tuple[list[TracedTask], bool]:
        """Wait for settled tasks; False with the last ones."""
        found = [self._waiting.get()]
        while len(found) < BATCH_TASKS:
            try:
                found.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return [task for task in found if task is not None], None not in found

    def _export(self, exporter: SpanExporter, spans: _Spans, batch: Sequence[TracedTask]) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        made = spans.of(batch)
        if not made:
            return
        self._has_failed = exporter.export(made) is not SpanExportResult.SUCCESS
        if self._has_failed:
            log.warning("%d spans were not accepted", len(made), extra={"action": "export_failed"})
            self._closing.wait(PAUSE_SECONDS)


class _Spans:
    """Makes finished spans of noted times."""

    def __init__(self, now: Callable[[], float]) -> None:
        from opentelemetry.propagators.aws import AwsXRayPropagator
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

        finished: list[Any] = []

        class Collector(SpanProcessor):
            def on_end(self, span: Any) -> None:
                finished.append(span)

        # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES and the samplers' variables are read by the library.
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "sd-queue-agent"}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(Collector())
        self._tracer = provider.get_tracer("sdctl_agent")
        self._propagator = AwsXRayPropagator()
        self._finished = finished
        self._now = now

    def of(self, tasks: Sequence[TracedTask]) -> list[Any]:
        """Make the spans of some tasks; none of one whose sender decided against it."""
        # Wall time is read here only, so that a clock that steps bends no duration.
        base_ns = time.time_ns() - round(self._now() * 1e9)
        for task in tasks:
            self._make(task, base_ns)
        spans = list(self._finished)
        self._finished.clear()
        return spans

    def _make(self, task: TracedTask, base_ns: int) -> None:
        from opentelemetry import trace
        from opentelemetry.trace import SpanKind, StatusCode

        if "Sampled=0" in [pair.strip() for pair in task.header.split(";")]:
            return  # also where there is no parent to inherit that from
        parent = self._propagator.extract({_XRAY_HEADER: task.header})
        span = self._tracer.start_span(
            "task", parent, SpanKind.CONSUMER, task.attributes, start_time=base_ns + round(task.start * 1e9)
        )
        inside = trace.set_span_in_context(span)
        for name, start, end in sorted(task.parts, key=lambda part: part[1]):
            child = self._tracer.start_span(name, inside, start_time=base_ns + round(start * 1e9))
            child.end(base_ns + round(end * 1e9))
        if task.error_code:
            span.set_attribute("error.type", task.error_code)
            span.set_status(StatusCode.ERROR, task.error_code)
        span.end(base_ns + round(task.end * 1e9))


def _otlp_exporter() -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    # It logs each failure with its URL; the tracer says it once instead.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    return OTLPSpanExporter(timeout=EXPORT_SECONDS)


def _reason(error: Exception) -> str:
    """Describe an error without what it may quote, except for a missing package's name."""
    if isinstance(error, ImportError):
        return f"{error.name} is not installed (pip install 'sdctl[tracing]')"
    return type(error).__name__
