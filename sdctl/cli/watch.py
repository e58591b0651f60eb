"""`sdctl watch`: follows tasks to their end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdctl.cli import access, context, following, output
from sdctl.cli.flags import duration_seconds
from sdctl.tasks.answers import RemoteTask
from sdctl.tasks.watch import require_completed


def watch(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Which tasks.", show_default=False)],
    *,
    timeout: Annotated[
        str, typer.Option("--timeout", help="How long to wait, as 90s or 15m.", metavar="TIME")
    ] = "1h",
    download: Annotated[
        Path | None, typer.Option("--download", help="Store the outputs in this folder.", metavar="DIR")
    ] = None,
) -> None:
    """Follow tasks to their end: status, progress, then the picture where the terminal can show it.

    With -o json, stdout gets one task object a line at each change; the last has an end status.
    """
    api = access.task_api()
    is_json = context.current().is_json

    def changed(task: RemoteTask, files: tuple[str, ...]) -> None:
        if is_json:
            output.stream(task.document(files), "")
        elif task.is_ended:
            output.stream(None, following.summary(task, files))

    seconds = duration_seconds(timeout)
    ended = following.wait(api, ids, timeout_seconds=seconds, folder=download, on_change=changed)
    following.show_pictures(ended, api)
    require_completed([task for task, _ in ended])
