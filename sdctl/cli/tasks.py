"""`sdctl tasks`: list, get, cancel, retry and download tasks, by id or by filter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sdctl import contract
from sdctl.cli import access, following, output
from sdctl.cli.flags import share
from sdctl.errors import SdctlError, UsageError
from sdctl.tasks.answers import RemoteTask
from sdctl.tasks.api import TaskApi

app = typer.Typer(help="List, get, cancel, retry and download tasks.", no_args_is_help=True)

_COLUMNS = ("id", "status", "runtime", "tasktype", "progress", "attempts", "submitted_at")
Status = StrEnum("Status", {name.upper(): name for name in contract.STATUSES})  # type: ignore[misc]

Runtime = Annotated[str | None, typer.Option("--runtime", help="Only of this runtime.", metavar="NAME")]
StatusOption = Annotated[Status | None, typer.Option("--status", help="Only with this status.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.", metavar="N")]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which tasks a command is for: those of `ids`, else the newest that pass the filter."""

    ids: list[str]
    runtime: str | None
    status: str | None
    limit: int

    @property
    def is_single(self) -> bool:
        """Tell whether exactly one task was named, whose result then stands alone."""
        return len(self.ids) == 1


def _choice(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Which tasks.")] = None,
    *,
    runtime: Runtime = None,
    status: StatusOption = None,
    limit: Limit = 100,
) -> Choice:
    if ids and (runtime or status):
        raise UsageError("give ids, or a filter, not both")
    if not ids and not (runtime or status):
        raise UsageError("which tasks? Give ids, or a filter", hint="sdctl tasks list shows them")
    return Choice(list(dict.fromkeys(ids or [])), runtime, status, limit)


_chosen = share(_choice)


@app.command("list")
def list_(
    *,
    runtime: Runtime = None,
    status: StatusOption = None,
    limit: Limit = 20,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Go on where an earlier list ended.", metavar="TEXT")
    ] = None,
) -> None:
    """List tasks, newest first."""
    page = access.task_api().collect(runtime=runtime, status=status, limit=limit, cursor=cursor)
    if page.cursor is not None:
        output.note("There are more: raise --limit, or go on with --cursor (see -o json).")
    document = {"tasks": [task.document() for task in page.tasks], "cursor": page.cursor}
    output.result(document, lambda: _table(page.tasks))


def _table(tasks: tuple[RemoteTask, ...] | list[RemoteTask]) -> str:
    if not tasks:
        return "no tasks"
    rows = []
    for task in tasks:
        progress = None if task.progress is None else f"{task.progress:.0%}"
        rows.append({**task.document(), "progress": progress})
    return output.table(rows, _COLUMNS)


@app.command()
def get(task_id: Annotated[str, typer.Argument(metavar="ID", help="Which task.")]) -> None:
    """Show one task."""
    task = access.task_api().get(task_id)
    output.result(task.document(), lambda: _details(task))


def _details(task: RemoteTask) -> str:
    fields: dict[str, Any] = {**task.document(), "error": task.reason if task.error else None}
    lines = []
    for name, value in fields.items():
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            if item not in (None, ""):
                label = "" if number else name.replace("_", " ")
                lines.append(f"{label:<13} {item if isinstance(item, str) else output.to_json(item)}")
    return "\n".join(lines)


@app.command()
@_chosen
def cancel(choice: Choice) -> None:
    """Cancel queued and running tasks."""
    api = access.task_api()
    _each(api, choice, "cancel", api.cancel, (contract.QUEUED, contract.RUNNING))


@app.command()
@_chosen
def retry(choice: Choice) -> None:
    """Start failed, expired or cancelled tasks again."""
    api = access.task_api()
    _each(api, choice, "retry", api.retry, contract.RETRYABLE_STATUSES)


@app.command()
@_chosen
def download(
    choice: Choice,
    *,
    folder: Annotated[Path, typer.Option("--to", "-d", help="Into this folder.", metavar="DIR")] = Path(),
    with_answer: Annotated[
        bool, typer.Option("--with-answer", help="The runtime's whole answer (.out) too.")
    ] = False,
) -> None:
    """Store the outputs of tasks in a folder."""
    from sdctl.tasks.files import download_outputs

    api = access.task_api()
    results = []
    for task_id in _ids(api, choice, (contract.COMPLETED,)):
        task = api.get(task_id)
        if not task.is_ended:
            output.warn(f"{task.id} is {task.status}: no outputs yet")
        files = download_outputs(task, folder, api.transport, with_answer=with_answer, report=output.detail)
        results.append((task, files))
    documents = [task.document(files) for task, files in results]
    output.result(
        documents[0] if choice.is_single else {"tasks": documents},
        lambda: "\n".join(following.summary(task, files) for task, files in results) or "no tasks",
    )


def _ids(api: TaskApi, choice: Choice, fitting: tuple[str, ...]) -> list[str]:
    """Return the ids of a choice; of a filter, only the tasks that the command can do something with."""
    if choice.ids:
        return choice.ids
    page = api.collect(runtime=choice.runtime, status=choice.status, limit=choice.limit)
    return [task.id for task in page.tasks if task.status in fitting]


def _each(
    api: TaskApi,
    choice: Choice,
    verb: str,
    call: Callable[[str], RemoteTask],
    fitting: tuple[str, ...],
) -> None:
    """Do one call for every chosen task; what fails is told, and its error is the command's."""
    ids = _ids(api, choice, fitting)
    if not choice.ids and ids and not output.confirm(f"{verb.capitalize()} {len(ids)} tasks?"):
        raise typer.Exit(1)
    done: list[RemoteTask] = []
    failures: list[SdctlError] = []
    for task_id in ids:
        try:
            done.append(call(task_id))
        except SdctlError as error:
            if choice.is_single:
                raise
            output.warn(f"{task_id}: {error.message}")
            failures.append(error)
    documents = [task.document() for task in done]
    output.result(documents[0] if choice.is_single else {"tasks": documents}, lambda: _table(done))
    if failures:
        raise failures[0]
