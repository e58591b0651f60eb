"""Reads the children's log files, which grow and are cut while they are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_POLL_SECONDS: Final = 0.2
_TAIL_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log of a child, or of a Lambda function."""

    source: str
    text: str


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a log, none where it does not exist."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read().decode("utf-8", "replace").splitlines()[-lines:] if lines else []


def follow(
    paths: dict[str, Path],
    *,
    is_over: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[LogLine]:
    """Yield lines as they are written, from now on, until `is_over`.

    A file that became shorter was moved aside: reading goes on at its start. An unfinished line waits.
    """
    places = {source: _size(path) for source, path in paths.items()}
    while True:
        last_round = is_over()
        for source, path in paths.items():
            places[source], lines = _read_from(path, places[source])
            yield from (LogLine(source, line) for line in lines)
        if last_round:
            return
        sleep(_POLL_SECONDS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_from(path: Path, place: int) -> tuple[int, list[str]]:
    if not path.exists():
        return 0, []
    with path.open("rb") as file:
        if place > path.stat().st_size:
            place = 0
        file.seek(place)
        complete, newline, _ = file.read().rpartition(b"\n")
    if not newline:
        return place, []
    return place + len(complete) + 1, complete.decode("utf-8", "replace").splitlines()
