"""What tests of the adapters share: tasks, fetchers, and running a task to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sdctl.contract import Task
from sdctl_agent.media import sniff
from sdctl_agent.runtimes.base import InputFile, Output, RunResult, Runtime


def task(tasktype: str, content: dict[str, Any], task_id: str = "t1") -> Task:
    return Task(id=task_id, runtime="r", tasktype=tasktype, content=content)


class Fetcher:
    """Gives the files that it was made with, and keeps what it was asked for."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = files or {}
        self.asked: list[str] = []

    def __call__(self, url: str) -> InputFile:
        self.asked.append(url)
        data = self.files[url]
        return InputFile(data, sniff(data).content_type, url.rsplit("/", 1)[-1])


def run_task(
    runtime: Runtime, what: Task, fetch: Fetcher | None = None, timeout_seconds: float = 20
) -> RunResult:
    """Prepare, start and await a task."""
    run = runtime.start(runtime.prepare(what, fetch or Fetcher()))
    assert run.done.wait(timeout_seconds), "the run did not end in time"
    return run.result()


def contents(outputs: tuple[Output, ...]) -> list[bytes]:
    """Read every output to its end."""
    found = []
    for output in outputs:
        with output.open() as chunks:
            found.append(b"".join(chunks))
    return found


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 10) -> None:
    """Wait for a condition of another thread or server, with a deadline."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
