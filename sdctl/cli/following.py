"""Waiting for tasks on the command line: live lines on stderr, outputs stored, the result told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sdctl.cli import context, output
from sdctl.tasks.answers import RemoteTask
from sdctl.tasks.api import TaskApi
from sdctl.tasks.watch import follow

_CLEAR_LINE: Final = "\r\x1b[K"


class Live:
    """Shows on stderr how tasks go: one line that changes on a terminal, else a line a new status."""

    def __init__(self, count: int) -> None:
        options = context.current()
        is_shared = options.is_json and sys.stdout.isatty()  # a line of JSON would run into the live line
        self._is_live = count == 1 and sys.stderr.isatty() and not options.quiet and not is_shared
        self._started = time.monotonic()
        self._told: dict[str, str] = {}

    def show(self, task: RemoteTask) -> None:
        """Tell that a task has changed."""
        percent = f" {task.progress:.0%}" if task.progress is not None and not task.is_ended else ""
        attempt = f", attempt {task.attempts}" if task.attempts > 1 else ""
        words = f"{task.id}  {task.status}{percent}{attempt}"
        if self._is_live and task.is_ended:
            output.draw(_CLEAR_LINE)
        elif self._is_live:
            seconds = time.monotonic() - self._started
            output.draw(f"{_CLEAR_LINE}{output.printable(words)}  {seconds:.0f} s")
        elif self._told.get(task.id) != task.status + attempt:
            output.note(f"{task.id}  {task.status}{attempt}")
        self._told[task.id] = task.status + attempt

    def end(self) -> None:
        """Clear the live line."""
        if self._is_live and self._told:
            output.draw(_CLEAR_LINE)


def wait(
    api: TaskApi,
    ids: Sequence[str],
    *,
    timeout_seconds: float,
    folder: Path | None = None,
    on_change: Callable[[RemoteTask, tuple[str, ...]], None] = lambda _task, _files: None,
    unseen_seconds: float = 0.0,
) -> list[tuple[RemoteTask, tuple[str, ...]]]:
    """Follow tasks to their end and store the outputs of each that completed.

    Args:
        api: the task API.
        ids: which tasks.
        timeout_seconds: from now.
        folder: where the outputs go; None stores nothing.
        on_change: is told of each change, at the end with the stored files.
        unseen_seconds: as in `follow`.

    Returns:
        Each task with its local files.
    """
    live = Live(len(ids))
    files: dict[str, tuple[str, ...]] = {}

    def changed(task: RemoteTask) -> None:
        live.show(task)
        if folder is not None and task.image_url and task.is_ended:
            from sdctl.tasks.files import download_outputs

            files[task.id] = download_outputs(task, folder, api.transport, report=output.detail)
        on_change(task, files.get(task.id, ()))

    try:
        ended = follow(
            api, ids, timeout_seconds=timeout_seconds, on_change=changed, unseen_seconds=unseen_seconds
        )
    finally:
        live.end()
    return [(task, files.get(task.id, ())) for task in ended]


def summary(task: RemoteTask, files: Sequence[str]) -> str:
    """Word an ended task: its status, and where its outputs are."""
    lines = [f"{task.id}  {task.status}"]
    if task.error is not None:
        lines[0] += f": {task.reason}"
    lines += [f"  {place}" for place in (files or task.image_url)]
    return "\n".join(lines)


def show_pictures(tasks: Sequence[tuple[RemoteTask, tuple[str, ...]]], api: TaskApi) -> None:
    """Draw the first picture of each task on the terminal, where it can; does nothing elsewhere."""
    from sdctl.cli import terminal

    if not terminal.can_draw(context.environment()):
        return
    for task, files in tasks:
        if files:
            terminal.draw_file(Path(files[0]), context.environment())
        elif task.image_url and task.links and task.links[0]:
            terminal.draw_outputs(task, api, context.environment())
