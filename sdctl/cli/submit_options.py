"""The options of `sdctl submit`: what every kind takes, and what the kinds for pictures share."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sdctl import contract
from sdctl.cli.flags import duration_seconds, share
from sdctl.errors import ConfigError, NotFoundError, UsageError
from sdctl.tasks import bodies

STDIN = "-"


class Via(StrEnum):
    """How a task gets in."""

    API = "api"
    SNS = "sns"


@dataclass(frozen=True, slots=True)
class Common:
    """What every kind of submit takes."""

    metadata: bodies.Metadata
    settings: list[str]
    via: Via
    wait: bool
    timeout_seconds: float
    folder: Path | None


def _common(
    *,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="Runtime; by default the first that fits.", metavar="NAME")
    ] = None,
    task_id: Annotated[
        str | None, typer.Option("--id", help="The task's id; by default one is made.", metavar="ID")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Folder of the outputs in the bucket.", metavar="PREFIX")
    ] = None,
    task_context: Annotated[
        str | None,
        typer.Option("--context", help="JSON that comes back with the result.", metavar="JSON|@FILE"),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", help="Expire unless started within this time.", metavar="TIME"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other field, as a.b[0]=JSON; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    via: Annotated[Via, typer.Option("--via", help="The task API, or straight to the topic.")] = Via.API,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end.")] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", help="How long to wait, as 90s or 15m.", metavar="TIME")
    ] = "1h",
    download: Annotated[
        Path | None,
        typer.Option("--download", help="Wait, and store the outputs in this folder.", metavar="DIR"),
    ] = None,
) -> Common:
    start_within = duration_seconds(deadline) if deadline else None
    metadata = bodies.Metadata(task_id, runtime, prefix, _json_context(task_context), start_within)
    is_waiting = wait or download is not None
    return Common(metadata, settings or [], via, is_waiting, duration_seconds(timeout), download)


def _json_context(text: str | None) -> Any:
    """Read `--context`: JSON, `@file` with JSON, or else plain text."""
    if text is None:
        return None
    if text.startswith("@"):
        try:
            return contract.decode_json(read_text(text[1:]))
        except ValueError as error:
            raise ConfigError(f"{text[1:]} is not JSON: {error}") from error
    try:
        return contract.decode_json(text)
    except ValueError:
        return text


with_common = share(_common)
Size = Annotated[str | None, typer.Option("--size", help="Instead of width and height.", metavar="WxH")]
Width = Annotated[int | None, typer.Option("--width", min=1, help="Pixels.", metavar="N")]
Height = Annotated[int | None, typer.Option("--height", min=1, help="Pixels.", metavar="N")]
Negative = Annotated[
    str | None,
    typer.Option("--negative-prompt", "--negative", help="What should not be there.", metavar="TEXT"),
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Sampling steps.", metavar="N")]
Seed = Annotated[int | None, typer.Option("--seed", help="-1 is a new one each time.", metavar="N")]
Cfg = Annotated[float | None, typer.Option("--cfg-scale", help="How closely to follow PROMPT.", metavar="X")]
Sampler = Annotated[str | None, typer.Option("--sampler", help="As Euler a.", metavar="NAME")]
Scheduler = Annotated[str | None, typer.Option("--scheduler", help="As Karras.", metavar="NAME")]
Batch = Annotated[int | None, typer.Option("--batch-size", min=1, help="Pictures at once.", metavar="N")]
Count = Annotated[int | None, typer.Option("--batches", min=1, help="Batches in a row.", metavar="N")]
Checkpoint = Annotated[
    str | None, typer.Option("--checkpoint", "--model", help="Model to switch to.", metavar="FILE")
]


def picture_fields(size: str | None, width: int | None, height: int | None, **fields: Any) -> dict[str, Any]:
    """Collect SD WebUI's fields; `size` stands for both measures."""
    if size is not None:
        if width is not None or height is not None:
            raise UsageError("--size and --width or --height were both given")
        width, height = bodies.parse_size(size)
    return {**fields, "width": width, "height": height}


def read_text(name: str) -> str:
    """Read a text file, or stdin."""
    try:
        return sys.stdin.read() if name == STDIN else Path(name).expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {name}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror or error}") from error
