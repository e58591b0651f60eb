"""The only writer to stdout, and the one place that words notes, questions and errors on stderr.

stdout holds the result alone: text, or JSON with `-o json`. Whatever text comes from elsewhere loses
its control characters before it reaches a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from sdctl.cli import context
from sdctl.errors import MachineError, SdctlError, UsageError

Text = str | Callable[[], str]


def result(document: Any, text: Text) -> None:
    """Print a command's one result: `document` as JSON with `-o json`, else `text`.

    Args:
        document: what `json.dumps` takes; the stable shape of CONTRACT.
        text: the same for people, or a function that makes it.
    """
    if context.current().is_json:
        _write_result(to_json(document, indent=2) + "\n")
        return
    words = text if isinstance(text, str) else text()
    if words:
        _write_result(printable(words).removesuffix("\n") + "\n")


def stream(document: Any, text: Text) -> None:
    """Print one item of a command that streams: a line of NDJSON with `-o json`, else a line of text."""
    if context.current().is_json:
        _write_result(to_json(document) + "\n")
        return
    words = text if isinstance(text, str) else text()
    if words:
        _write_result(printable(words).removesuffix("\n") + "\n")


def note(text: str) -> None:
    """Tell progress or the next command on stderr, unless `--quiet`.

    With `-o json` only a terminal is told: a script finds nothing but the error object there.
    """
    options = context.current()
    if not options.quiet and (not options.is_json or sys.stderr.isatty()):
        _tell(printable(text) + "\n")


def detail(text: str) -> None:
    """Tell something on stderr that only `--verbose` asks for."""
    if context.current().verbose:
        _tell(printable(text) + "\n")


def warn(text: str) -> None:
    """Tell a warning on stderr, with `--quiet` too."""
    _tell(f"Warning: {printable(text)}\n")


def draw(sequences: str) -> None:
    """Write control sequences of our own making to the terminal on stderr: the line that shows progress."""
    _tell(sequences)


def draw_result(sequences: str) -> None:
    """Write a picture to the terminal on stdout."""
    _write_result(sequences)


def error(problem: SdctlError) -> None:
    """Print an error on stderr: `Error:` and `Hint:`, or JSON with `-o json`."""
    error_of(problem.code, problem.message, problem.hint)


def error_of(code: str, message: str, hint: str = "") -> None:
    """Print an error on stderr from its parts."""
    if context.current().is_json:
        _tell(to_json({"error": {"code": code, "message": message, "hint": hint}}) + "\n")
        return
    _tell(f"Error: {printable(message)}\n")
    if hint:
        _tell(f"Hint: {printable(hint)}\n")


def confirm(question: str) -> bool:
    """Ask on the terminal whether to go on; `--yes` answers.

    Raises:
        UsageError: there is no terminal to ask on.
    """
    if context.current().yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{question} There is no terminal to ask on.", hint="add --yes to answer yes")
    _tell(f"{printable(question)} [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Lay out rows as aligned text under the upper-cased names of `columns`; the last is not padded."""
    cells = [[column.upper().replace("_", " ") for column in columns]]
    cells += [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(cell_width(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(_line(line, widths) for line in cells)


def pairs(values: Mapping[str, str]) -> str:
    """Lay out names and values, one pair a line."""
    width = max(map(len, values), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in values.items())


def _line(line: list[str], widths: list[int]) -> str:
    padded = [cell + " " * (width - cell_width(cell)) for cell, width in zip(line, widths, strict=True)]
    return "  ".join(padded).rstrip()


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value)).replace("\n", " ")


def cell_width(text: str) -> int:
    """Count the terminal columns of a text: East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    marks = sum(unicodedata.combining(char) != 0 for char in text)
    return len(text) + wide - marks


def printable(text: str) -> str:
    """Replace control characters, which could drive the terminal; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        char if char in "\n\t" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def to_json(document: Any, indent: int | None = None) -> str:
    """Render JSON; one line without `indent`."""
    separators = None if indent else (",", ":")
    return json.dumps(document, ensure_ascii=False, indent=indent, separators=separators)


def _write_result(text: str) -> None:
    if sys.stdout is None:
        raise MachineError("the result cannot be written: stdout is closed")
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        raise  # whoever read it has seen enough; Typer leaves quietly
    except OSError as error:
        # What is left in the buffer goes nowhere: the interpreter would fail on it once more at its end.
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        raise MachineError(f"the result cannot be written: {error.strerror}") from error


def _tell(text: str) -> None:
    if sys.stderr is not None:
        _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        # A console of a narrow code page, or a lone surrogate of a file name.
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    stream.write(text)
    stream.flush()
