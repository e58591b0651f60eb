"""One sweep: overdue rows of each runtime in turn, page by page, until nothing or no time is left.

Of runtimes that are not deployed any more every open row is looked at. Their names are in the index alone:
it is scanned once, at a sandbox's first sweep, since a deployment that removes a runtime makes new ones.
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


class Sweeper:
    """Looks after overdue rows."""

    def __init__(self, table: Table, topics: Topics, contents: Contents, now_ms: Callable[[], int]) -> None:
        self._table = table
        self._topics = topics
        self._contents = contents
        self._now_ms = now_ms
        self._removed: frozenset[str] | None = None

    def sweep(self, runtimes: Iterable[str], has_time: Callable[[], bool]) -> dict[str, int]:
        """Look after the overdue rows of `runtimes`; returns how many rows needed what.

        A row that fails is left for the next sweep and stops no other one.
        """
        done = {need.value: 0 for need in Need} | {"failed": 0, "unread": 0}
        deployed = frozenset(runtimes)
        if self._removed is None:
            self._removed = self._scan_removed(deployed, has_time)
        names = [*sorted(deployed), *sorted(self._removed or ())]
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

    def _scan_removed(self, deployed: frozenset[str], has_time: Callable[[], bool]) -> frozenset[str] | None:
        """Name the runtimes that have open rows and are not deployed; None where the time is not enough."""
        call: Call = {
            "IndexName": task_record.INDEX_OPEN,
            "ProjectionExpression": "#runtime",
            "ExpressionAttributeNames": {"#runtime": "open_runtime"},
        }
        names: set[str] = set()
        while has_time():
            page = self._table.scan(call)
            names.update(item["open_runtime"]["S"] for item in page.get("Items", ()))
            if "LastEvaluatedKey" not in page:
                return frozenset(names - deployed)
            call["ExclusiveStartKey"] = page["LastEvaluatedKey"]
        return None

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
