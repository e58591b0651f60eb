"""`sdctl logs` and `sdctl local …`: what the processes of this machine and the API's functions say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sdctl.cli import access, context, output
from sdctl.deployments import Deployment, home
from sdctl.errors import NotFoundError, RemoteError, UsageError

if TYPE_CHECKING:
    from sdctl.local.logfiles import LogLine
    from sdctl.local.target import LocalTarget

_API: Final = "api"
_KINDS: Final = ("agent", "runtime", "emulator", "supervisor")
_API_POLL_SECONDS: Final = 1.0
# How far back the API's log is looked at.
_API_WINDOW_SECONDS: Final = 3600


class NotYetError(RemoteError):
    """This command cannot do that on AWS yet."""

    code = "not_supported_yet"


app = typer.Typer(help="What only the local target has.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Hold the group together: Typer would make one command of it."""


@app.command("logs")
def logs(
    what: Annotated[
        str, typer.Argument(help="agent, runtime, api, emulator, supervisor, or one process's name.")
    ] = "agent",
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    lines: Annotated[int, typer.Option("--lines", min=0, max=100_000, help="How many to begin with.")] = 100,
) -> None:
    """Show logs; with several sources, each line is preceded by its own."""
    deployment = context.require_deployment()
    if what == _API:
        found = _api_lines(deployment, lines=lines, is_followed=follow)
        _print(found, is_prefixed=False)
        return
    if deployment.target != "local":
        raise NotYetError(f"logs of {what} cannot be read on AWS yet", hint="sdctl logs api")
    from sdctl.local.target import LocalTarget

    env = context.environment()
    target = LocalTarget(home(env), deployment.stack_name, Path(deployment.folder), env=env)
    paths = _paths(target, what)
    _print(_file_lines(target, paths, lines=lines, is_followed=follow), is_prefixed=len(paths) > 1)


def _paths(target: LocalTarget, what: str) -> dict[str, Path]:
    """Choose log files by kind or by a process's name."""
    known = {path.stem: path for path in sorted(target.state.logs.glob("*.log"))}
    if what in known:
        return {what: known[what]}
    found = {name: path for name, path in known.items() if name.startswith(f"{what}-")}
    if found:
        return found
    if what in _KINDS:
        raise NotFoundError(f"there is no log of {what} yet", hint="sdctl status shows what runs")
    raise UsageError(f"{what!r} has no log; there are: {', '.join([_API, *known])}")


def _file_lines(
    target: LocalTarget, paths: dict[str, Path], *, lines: int, is_followed: bool
) -> Iterator[LogLine]:
    from sdctl.local import logfiles

    for source, path in paths.items():
        yield from (logfiles.LogLine(source, line) for line in logfiles.tail(path, lines))
    if is_followed:
        yield from logfiles.follow(paths, is_over=lambda: not target.exists())


def _api_lines(deployment: Deployment, *, lines: int, is_followed: bool) -> Iterator[LogLine]:
    """Read what the API's function wrote, from CloudWatch Logs."""
    from sdctl.clients.aws import aws_errors
    from sdctl.local.logfiles import LogLine

    session = access.aws(deployment)
    group = _api_log_group(deployment, session)
    client = session.client("logs")
    since_ms = int((datetime.now(UTC).timestamp() - _API_WINDOW_SECONDS) * 1000)
    seen: set[tuple[Any, ...]] = set()
    is_first = True
    while True:
        events: list[dict[str, Any]] = []
        with aws_errors("read the API's log"):
            pages = client.get_paginator("filter_log_events").paginate(logGroupName=group, startTime=since_ms)
            for page in pages:
                events += [event for event in page["events"] if _identity(event) not in seen]
        events.sort(key=lambda event: int(event["timestamp"]))
        shown = events if not is_first else events[-lines:] if lines else []
        yield from (LogLine(_API, str(event["message"]).rstrip()) for event in shown)
        is_first = False
        seen.update(map(_identity, events))
        if not is_followed:
            return
        if events:
            since_ms = int(events[-1]["timestamp"])
        time.sleep(_API_POLL_SECONDS)


def _identity(event: dict[str, Any]) -> tuple[Any, ...]:
    """Tell events apart; the emulator's have no id."""
    return event.get("logStreamName"), event.get("eventId"), event["timestamp"], event["message"]


def _api_log_group(deployment: Deployment, session: Any) -> str:
    from sdctl.clients.aws import aws_errors

    with aws_errors("find the API's log"):
        found = session.client("cloudformation").describe_stack_resources(
            StackName=f"{deployment.stack_name}Stack", LogicalResourceId="ApiLog"
        )["StackResources"]
    return str(found[0]["PhysicalResourceId"])


def _print(found: Iterator[LogLine], *, is_prefixed: bool) -> None:
    for line in found:
        text = f"{line.source} | {line.text}" if is_prefixed else line.text
        output.stream({"source": line.source, "message": line.text}, text)
