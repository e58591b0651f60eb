"""The list of tasks: newest first over all runtimes, in pages, with bounded work for each.

Every row has a `listing` that sorts by time over all runtimes, so the position of one page is the
`listing` after which the next begins, whatever the filters are.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sdctl import contract, task_record
from sdctl.contract import Problem, RuntimeInfo
from sdctl.task_record import Call, Row
from sdctl_api.exchange import invalid

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
# Beyond one page of each runtime: what a rare status may cost before the caller is handed a cursor.
EXTRA_QUERIES: Final = 10
FILTERED_PAGE_ITEMS: Final = 200
_PARAMETERS: Final = ("runtime", "status", "limit", "cursor")
_LISTING: Final = re.compile(r"\d{13}#" + contract.ID_PATTERN.pattern)
# Above every `listing`: its first character is a digit.
_NEWEST: Final = ":"


@dataclass(frozen=True, slots=True)
class Page:
    """Which tasks are asked for; `before` is the listing after which the page begins."""

    runtimes: tuple[str, ...]
    status: str | None = None
    limit: int = DEFAULT_LIMIT
    before: str = _NEWEST


def parse_page(query: Mapping[str, str], runtimes: Mapping[str, RuntimeInfo]) -> Page:
    """Read the parameters `runtime`, `status`, `limit` and `cursor`.

    Raises:
        ApiError: `invalid_task` with every problem.
    """
    problems = [
        Problem(name, f"unknown parameter{contract.nearest(name, _PARAMETERS)}")
        for name in query
        if name not in _PARAMETERS
    ]
    names = tuple(info.name for info in runtimes.values())
    status, limit, before = query.get("status") or None, DEFAULT_LIMIT, _NEWEST
    if query.get("runtime"):
        found = runtimes.get(query["runtime"].lower())
        names = (found.name,) if found else ()
        if found is None:
            known = contract.some_names(sorted(info.name for info in runtimes.values()))
            problems.append(
                Problem("runtime", f"{contract.found(query['runtime'])} is not deployed; deployed: {known}")
            )
    if status and status not in contract.STATUSES:
        known = ", ".join(contract.STATUSES)
        problems.append(Problem("status", f"{contract.found(status)} is not one of {known}"))
    if query.get("limit"):
        if re.fullmatch("[0-9]{1,3}", query["limit"]) and 1 <= int(query["limit"]) <= MAX_LIMIT:
            limit = int(query["limit"])
        else:
            problems.append(
                Problem("limit", f"{contract.found(query['limit'])} is not between 1 and {MAX_LIMIT}")
            )
    if query.get("cursor"):
        decoded = decode_cursor(query["cursor"])
        before = decoded or _NEWEST
        if decoded is None:
            problems.append(Problem("cursor", "is not a cursor that this API returned"))
    if problems:
        raise invalid(problems)
    return Page(names, status, limit, before)


def encode_cursor(listing: str) -> str:
    """Make the opaque cursor of a position."""
    return base64.urlsafe_b64encode(listing.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str | None:
    """Return the position of a cursor, None for what is none."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        listing = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeError):
        return None
    return listing if _LISTING.fullmatch(listing) else None


@dataclass(slots=True)
class _Stream:
    """One runtime's rows, newest first: those read and not yet listed, and how far was read."""

    runtime: str
    position: str
    rows: list[Row] = field(default_factory=list)
    is_exhausted: bool = False

    @property
    def is_waiting(self) -> bool:
        return not self.rows and not self.is_exhausted


def list_page(query: Callable[[Call], Mapping[str, Any]], page: Page) -> tuple[list[Row], str | None]:
    """Read one page.

    Args:
        query: reads one page of an index, as `Table.query`.
        page: what is asked for.

    Returns:
        The rows, newest first, and the cursor of the next page or None. A page may be short, even
        empty, and still have a next one: its work is bounded.
    """
    streams = [_Stream(runtime, page.before) for runtime in page.runtimes]
    queries_left = len(streams) + EXTRA_QUERIES
    rows: list[Row] = []
    while len(rows) < page.limit:
        waiting = [stream for stream in streams if stream.is_waiting]
        if waiting and queries_left == 0:
            # What is older than the unread part of a runtime belongs to a later page.
            frontier = max(stream.position for stream in waiting)
            rows += _newest(streams, page.limit - len(rows), down_to=frontier)
            return rows, encode_cursor(rows[-1].listing if len(rows) == page.limit else frontier)
        if waiting:
            _read(query, page, max(waiting, key=lambda stream: stream.position))
            queries_left -= 1
            continue
        newest = _newest(streams, 1)
        if not newest:
            return rows, None
        rows += newest
    has_more = any(stream.rows or not stream.is_exhausted for stream in streams)
    return rows, encode_cursor(rows[-1].listing) if has_more else None


def _newest(streams: Iterable[_Stream], count: int, down_to: str = "") -> list[Row]:
    """Take the newest rows out of the streams, as far as they are newer than `down_to`."""
    taken: list[Row] = []
    while len(taken) < count:
        ready = [stream for stream in streams if stream.rows and stream.rows[0].listing > down_to]
        if not ready:
            break
        taken.append(max(ready, key=lambda stream: stream.rows[0].listing).rows.pop(0))
    return taken


def _read(query: Callable[[Call], Mapping[str, Any]], page: Page, stream: _Stream) -> None:
    names = {"#runtime": "runtime", "#listing": "listing"}
    values = {":runtime": stream.runtime, ":before": stream.position}
    # One more than fits, so that the last page is known to be the last.
    call: Call = {"Limit": page.limit + 1}
    if page.status:
        names["#status"], values[":status"] = "status", page.status
        call = {"Limit": FILTERED_PAGE_ITEMS, "FilterExpression": "#status = :status"}
    answer = query(
        {
            **call,
            "IndexName": task_record.INDEX_BY_RUNTIME,
            "KeyConditionExpression": "#runtime = :runtime AND #listing < :before",
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": {
                key: task_record.to_attribute(value) for key, value in values.items()
            },
            "ScanIndexForward": False,
        }
    )
    stream.rows = [task_record.row_from_item(item) for item in answer.get("Items", ())]
    last = answer.get("LastEvaluatedKey")
    stream.is_exhausted = last is None
    if last:
        stream.position = last["listing"]["S"]
