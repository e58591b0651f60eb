"""One sweep: overdue rows of each runtime in turn, page by page, until nothing or no time is left."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from sdctl import task_record
from sdctl.task_record import Call, Row
from sdctl_lambda.aws import AWS_ERRORS
from sdctl_lambda.contents import ContentLostError, Contents
from sdctl_lambda.log_lines import log_line, where
from sdctl_lambda.settling import notify, publish_row
from sdctl_lambda.table import ConditionFailedError, Table
from sdctl_lambda.topics import QueueUnavailableError, Topics
from sdctl_sweep.rules import Need, expiry, need_of

PAGE_ITEMS: Final = 100


class Sweeper:
    """Looks after overdue rows."""

    def __init__(self, table: Table, topics: Topics, contents: Contents, now_ms: Callable[[], int]) -> None:
        self._table = table
        self._topics = topics
        self._contents = contents
        self._now_ms = now_ms

    def sweep(self, runtimes: Iterable[str], has_time: Callable[[], bool]) -> dict[str, int]:
        """Look after the overdue rows of `runtimes`; returns how many rows needed what.

        A row that fails is left for the next sweep and stops no other one.
        """
        done = {need.value: 0 for need in Need} | {"failed": 0, "unread": 0}
        pages = deque((runtime, self._page_call(runtime)) for runtime in runtimes)
        while pages and has_time():
            runtime, call = pages.popleft()
            page = self._table.query(call)
            for item in page.get("Items", ()):
                if not has_time():
                    done["unread"] += 1
                    continue
                done[self._look_after(item["id"]["S"])] += 1
            if "LastEvaluatedKey" in page:
                pages.append((runtime, call | {"ExclusiveStartKey": page["LastEvaluatedKey"]}))
        return done | {"unread_pages": len(pages)}

    def _page_call(self, runtime: str) -> Call:
        return {
            "IndexName": task_record.INDEX_OPEN,
            "KeyConditionExpression": "#runtime = :runtime AND #until < :now",
            "ExpressionAttributeNames": {"#runtime": "open_runtime", "#until": "open_until"},
            "ExpressionAttributeValues": {
                ":runtime": task_record.to_attribute(runtime),
                ":now": task_record.to_attribute(self._now_ms()),
            },
            "Limit": PAGE_ITEMS,
        }

    def _look_after(self, task_id: str) -> str:
        try:
            return self._act(task_id).value
        except ConditionFailedError:
            return Need.NOTHING.value  # an agent or somebody's request was quicker
        except (*AWS_ERRORS, QueueUnavailableError, ContentLostError) as error:
            log_line("row", id=task_id, **where(error))
            return "failed"

    def _act(self, task_id: str) -> Need:
        row = self._table.get(task_id)
        if row is None:
            return Need.NOTHING
        now_ms = self._now_ms()
        need = need_of(row, now_ms)
        if need is Need.PUBLISH:
            publish_row(self._table, self._topics, self._contents, row, now_ms)
        elif need is Need.EXPIRE:
            self._expire(row, now_ms)
        elif need is Need.NOTIFY:
            notify(self._table, self._topics, row)
        return need

    def _expire(self, row: Row, now_ms: int) -> None:
        ended = self._table.update(task_record.end_call(row, expiry(row, now_ms)))
        notify(self._table, self._topics, ended)
