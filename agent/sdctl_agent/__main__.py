"""The entry point: settings, logging, parts, signals, run."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING

from sdctl_agent.errors import SettingsError
from sdctl_agent.settings import Settings, load_settings

if TYPE_CHECKING:
    from sdctl_agent.metrics import PrometheusMetrics
    from sdctl_agent.worker import Worker

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The thread that starts the next task waits for no upload's thread longer than this; Python's default is
# 5 ms for each change of threads, which at 0.1 s a task is 2 % of the GPU's time.
SWITCH_SECONDS = 0.0005


def now_ms() -> int:
    """Return wall time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def build_worker(settings: Settings) -> Worker:
    """Put the agent together; connects to nothing yet.

    Raises:
        SettingsError: the runtime type, its plug-in or the allow-list is no good.
    """
    from sdctl_agent.aws import AwsClients
    from sdctl_agent.board import Board
    from sdctl_agent.consumer import Consumer
    from sdctl_agent.handler import Clocks, Doors, Handler, Rules
    from sdctl_agent.heartbeat import Heartbeat
    from sdctl_agent.inputs import make_fetcher
    from sdctl_agent.memory_watch import MemoryWatch
    from sdctl_agent.metrics import Metrics, NoMetrics, PrometheusMetrics
    from sdctl_agent.notify import Notifier
    from sdctl_agent.pool import Pool
    from sdctl_agent.runtimes import create_runtime
    from sdctl_agent.runtimes.base import RuntimeOptions
    from sdctl_agent.storage import Storage
    from sdctl_agent.table import MemoryTasks, TableTasks, Tasks
    from sdctl_agent.tracing import NoTracer, OtlpTracer, Tracer
    from sdctl_agent.worker import Parts, Timing, Worker

    runtime = create_runtime(
        settings.runtime_type,
        RuntimeOptions(
            base_url=settings.api_base_url,
            name=settings.runtime_name,
            dynamic_checkpoint=settings.dynamic_models,
            task_timeout_seconds=settings.task_timeout_seconds,
            stall_timeout_seconds=settings.stall_timeout_seconds,
        ),
    )
    clients = AwsClients(settings.region)
    services = ["sqs", "s3", "sns", *(["dynamodb"] if settings.task_table else [])]
    prometheus = PrometheusMetrics() if settings.metrics_port is not None else None
    metrics: Metrics = prometheus or NoMetrics()
    tasks: Tasks = MemoryTasks(now_ms)
    if settings.task_table:
        tasks = TableTasks(clients, settings.task_table, now_ms)
    consumer = Consumer(clients, settings.queue_url, settings.dead_letter_queue_url, time.monotonic)
    fetch = make_fetcher(settings.input_allowlist, settings.bucket, lambda: clients.client("s3"))
    handler = Handler(
        Doors(
            tasks, Storage(clients, settings.bucket), Notifier(clients, settings.topic_arn), runtime, fetch
        ),
        Rules(settings.runtime_name, settings.max_attempts, settings.task_timeout_seconds),
        Clocks(time.monotonic, now_ms, random.Random()),  # noqa: S311 - spreads retries, protects nothing
        metrics,
        Pool("upload", 8, _fatal),
    )
    tracer: Tracer = NoTracer()
    if settings.is_traced:
        tracer = OtlpTracer(settings.runtime_type, settings.queue_url, time.monotonic)

    def warm_up() -> None:
        clients.warm_up(services)
        tracer.open()  # after what the first task needs

    heartbeat = Heartbeat(consumer, tasks, time.monotonic, now_ms, metrics)
    board = Board(time.monotonic, has_affinity=settings.dynamic_models)
    metrics.watch_gpu(board.busy_seconds)
    parts = Parts(
        consumer,
        handler,
        heartbeat,
        runtime,
        board,
        metrics,
        warm_up,
        tracer,
        MemoryWatch(runtime, metrics, time.monotonic),
    )
    worker = Worker(
        parts,
        Timing(settings.drain_seconds, settings.task_timeout_seconds),
        time.monotonic,
        can_yield=tasks.is_shared,
        notify_running=settings.notify_running,
    )
    if prometheus is not None and settings.metrics_port is not None:
        _serve(settings.metrics_port, prometheus, heartbeat.is_beating, worker.is_ready)
    return worker


def _serve(
    port: int, metrics: PrometheusMetrics, is_live: Callable[[], bool], is_ready: Callable[[], bool]
) -> None:
    from sdctl_agent.probes import serve

    checks = {"/livez": is_live, "/healthz": is_live, "/readyz": is_ready}
    try:
        serve(port, metrics.exposition, checks)
    except OSError as error:
        raise SettingsError([f"METRICS_PORT: {port} cannot be listened on: {error.strerror}"]) from error


def _fatal(error: BaseException) -> None:
    """End the process for an error that no caller is there to see."""
    sys.excepthook(type(error), error, error.__traceback__)
    os._exit(1)


def wait_for_signal() -> None:
    """Return at the first SIGTERM or SIGINT; a second one ends the process at once."""
    signal.sigwait(SIGNALS)
    for number in SIGNALS:
        signal.signal(number, _leave_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _leave_at_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    os._exit(128 + number)


def main(environment: Mapping[str, str] | None = None) -> int:
    """Run the agent until it is told to stop; return 0, 1 after a failure, 2 for bad settings."""
    sys.setswitchinterval(SWITCH_SECONDS)
    # Before any thread is made, so that all of them leave the signals to `wait_for_signal`.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        settings = load_settings(os.environ if environment is None else environment)
        from sdctl_agent.logs import configure_logging

        configure_logging(settings.log_level)
        worker = build_worker(settings)
    except SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"sd-queue-agent: {problem}\n")
        return 2
    return worker.run(wait_for_signal)


if __name__ == "__main__":
    sys.exit(main())
