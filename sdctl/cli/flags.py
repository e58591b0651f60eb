"""Values that flags take, and options that several commands share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from sdctl.errors import UsageError

# What may be said of a deployment without a configuration file, by the commands that read one.
Bucket = Annotated[
    str | None, typer.Option("--bucket", "-b", metavar="NAME", help="The bucket that holds the models.")
]
Snapshot = Annotated[
    str | None, typer.Option("--snapshot", "-s", metavar="ID", help="The image cache, snap-….")
]
RuntimeName = Annotated[
    str | None, typer.Option("--runtime-name", "-r", metavar="NAME", help="Name of the one runtime.")
]
RuntimeType = Annotated[
    str | None, typer.Option("--runtime-type", "-t", metavar="TYPE", help="sdwebui or comfyui.")
]

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)?")
_UNIT_SECONDS: Final = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration_seconds(text: str) -> float:
    """Read `90`, `90s`, `15m`, `2h` or `1d` as seconds.

    Raises:
        UsageError: it is none of these.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a duration: write 90, 90s, 15m or 2h")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def check_account(text: str | None) -> None:
    """Refuse what is no account: 12 digits.

    Raises:
        UsageError: it is something else.
    """
    if text is not None and not (text.isascii() and text.isdigit() and len(text) == 12):
        raise UsageError(f"{text!r} is not an account: 12 digits")


def share(build: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give commands the options of `build` as well, and what it returns as their first argument.

    Args:
        build: a function whose parameters are options; its result is made from their values.

    Returns:
        A decorator: the first parameter of the command's function gets that result.
    """
    shared = inspect.signature(build, eval_str=True).parameters

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()

        def command(**values: Any) -> None:
            result = build(**{name: values.pop(name) for name in shared})
            function(result, **values)

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [one.replace(kind=keyword) for one in (*own, *shared.values())]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return decorate
