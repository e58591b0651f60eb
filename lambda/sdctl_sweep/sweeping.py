"""One sweep: overdue rows of each runtime in turn, page by page, until nothing or no time is left.

Of runtimes that are not deployed any more every open row is looked at. Names that were on the list are
remembered; those that left it before this sandbox began are in the index alone, which is scanned once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from sdctl import task_record
from sdctl.task_record import Call
from sdctl_lambda.aws import AWS_ERRORS
from sdctl_lambda.contents import ContentLostError, Contents
from sdctl_lambda.log_lines import log_line, where
from sdctl_lambda.settling import notify, publish_row
from sdctl_lambda.table import ConditionFailedError, Table
from sdctl_lambda.topics import QueueUnavailableError, Topics
from sdctl_sweep.rules import Need, ending_of, need_of

PAGE_ITEMS: Final = 100
# A list that lacks a name once is no reason to end what waits for it.
REMOVED_AFTER_MS: Final = 300_000


class Sweeper:
    """Looks after overdue rows."""

    def __init__(self, table: Table, topics: Topics, contents: Contents, now_ms: Callable[[], int]) -> None:
        self._table = table
        self._topics = topics
        self._contents = contents
        self._now_ms = now_ms
        self._is_scanned = False
        self._names: set[str] = set()
        self._missed_since: dict[str, int] = {}

    def sweep(self, runtimes: Iterable[str], has_time: Callable[[], bool]) -> dict[str, int]:
        """Look after the overdue rows of `runtimes`; returns how many rows needed what.

        A row that fails is left for the next sweep and stops no other one.
        """
        done = {need.value: 0 for need in Need} | {"failed": 0, "unread": 0}
        deployed = frozenset(runtimes)
        names = [*sorted(deployed), *self._removed(deployed, has_time)]
        pages = deque((name, self._page_call(name, is_deployed=name in deployed)) for name in names)
        while pages and has_time():
            runtime, call = pages.popleft()
            page = self._table.query(call)
            for item in page.get("Items", ()):
                if not has_time():
                    done["unread"] += 1
                    continue
                done[self._look_after(item["id"]["S"], is_deployed=runtime in deployed)] += 1
            if "LastEvaluatedKey" in page:
                pages.append((runtime, call | {"ExclusiveStartKey": page["LastEvaluatedKey"]}))
        return done | {"unread_pages": len(pages)}

    def _removed(self, deployed: frozenset[str], has_time: Callable[[], bool]) -> list[str]:
        """Name the runtimes that have been missing from the list for long enough to be gone."""
        if not self._is_scanned:
            self._is_scanned = self._scan_names(has_time)
        self._names |= deployed
        now_ms, missed = self._now_ms(), sorted(self._names - deployed)
        self._missed_since = {name: self._missed_since.get(name, now_ms) for name in missed}
        return [name for name in missed if self._missed_since[name] + REMOVED_AFTER_MS <= now_ms]

    def _scan_names(self, has_time: Callable[[], bool]) -> bool:
        """Learn which runtimes have open rows; False where the time is not enough."""
        call: Call = {
            "IndexName": task_record.INDEX_OPEN,
            "ProjectionExpression": "#runtime",
            "ExpressionAttributeNames": {"#runtime": "open_runtime"},
        }
        while has_time():
            page = self._table.scan(call)
            self._names.update(item["open_runtime"]["S"] for item in page.get("Items", ()))
            if "LastEvaluatedKey" not in page:
                return True
            call["ExclusiveStartKey"] = page["LastEvaluatedKey"]
        return False

    def _page_call(self, runtime: str, *, is_deployed: bool) -> Call:
        condition, names = "#runtime = :runtime", {"#runtime": "open_runtime"}
        values = {":runtime": task_record.to_attribute(runtime)}
        if is_deployed:
            condition, names["#until"] = f"{condition} AND #until < :now", "open_until"
            values[":now"] = task_record.to_attribute(self._now_ms())
        return {
            "IndexName": task_record.INDEX_OPEN,
            "KeyConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "Limit": PAGE_ITEMS,
        }

    def _look_after(self, task_id: str, *, is_deployed: bool) -> str:
        try:
            return self._act(task_id, is_deployed=is_deployed).value
        except ConditionFailedError:
            return Need.NOTHING.value  # an agent or somebody's request was quicker
        except (*AWS_ERRORS, QueueUnavailableError, ContentLostError) as error:
            log_line("row", id=task_id, **where(error))
            return "failed"

    def _act(self, task_id: str, *, is_deployed: bool) -> Need:
        row = self._table.get(task_id)
        if row is None:
            return Need.NOTHING
        now_ms = self._now_ms()
        need = need_of(row, now_ms, is_deployed=is_deployed)
        if need is Need.PUBLISH:
            publish_row(self._table, self._topics, self._contents, row, now_ms)
        elif need in (Need.EXPIRE, Need.CANCEL):
            ending = ending_of(row, need, now_ms, is_deployed=is_deployed)
            notify(self._table, self._topics, self._table.update(task_record.end_call(row, ending)))
        elif need is Need.NOTIFY:
            notify(self._table, self._topics, row)
        return need
