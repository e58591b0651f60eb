"""The task table: claim, hold, release and end a task, by conditional writes only.

The writes themselves are built by `sdctl.task_record`; here they are sent, and a failed condition becomes
a value or an error. `MemoryTasks` is the same for an agent without a table: it knows the tasks of this
process only, so that nothing is de-duplicated across agents and SQS's receive count counts the attempts.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from botocore.exceptions import ClientError

from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl.task_record import Ending, Row
from sdctl_agent.aws import AwsClients, error_code

# How many ended tasks an agent without a table remembers, to recognise a duplicate.
REMEMBERED_TASKS = 1000
# Whoever ended a task is telling of it meanwhile: a duplicate that comes in between must not tell it, too.
TELLING_MS = 5_000


@dataclass(frozen=True, slots=True)
class Refused:
    """A claim that was not granted; `row` is the task as it is, None where it has no row."""

    row: Row | None


class LostClaimError(Exception):
    """The task is not (or no longer) in the state that the write needs; `row` is what it is now."""

    def __init__(self, row: Row | None) -> None:
        super().__init__("the claim is lost")
        self.row = row


class Verdict(Enum):
    """What to do about a message whose claim was refused."""

    DELETE = "delete"  # ended and told: nothing is left to do
    ANNOUNCE = "announce"  # ended, but maybe not told: publish, record, delete
    LEAVE = "leave"  # running or being told of elsewhere: look again when that should be over
    CANCEL = "cancel"  # asked to be cancelled before it could run
    EXPIRE = "expire"  # past its deadline without having started
    AGAIN = "again"  # it could be claimed now


def judge(row: Row, now_ms: int) -> Verdict:
    """Tell what a refused claim means, from the row that stood in its way."""
    if row.is_ended:
        if row.notified:
            return Verdict.DELETE
        return Verdict.LEAVE if now_ms < (row.finished_at or 0) + TELLING_MS else Verdict.ANNOUNCE
    if row.status == contract.RUNNING and row.claim_until >= now_ms:
        return Verdict.LEAVE
    if row.cancel_requested:
        return Verdict.CANCEL
    if row.deadline_at is not None and row.deadline_at <= now_ms and row.started_at is None:
        return Verdict.EXPIRE
    return Verdict.AGAIN


def look_again_seconds(row: Row, now_ms: int) -> float:
    """Tell when to look again at a row that is somebody else's for now; a wrong clock delays it little."""
    until = (row.finished_at or 0) + TELLING_MS if row.is_ended else row.claim_until
    return min((until - now_ms) / 1000 + 1, contract.VISIBILITY_SECONDS + 1.0)


class Tasks(Protocol):
    """What is kept of tasks, in the table or in memory."""

    is_shared: bool  # whether other agents see it

    def claim(self, task_id: str, token: str, receive_count: int) -> Row | Refused:
        """Take a task that has a row."""
        ...

    def claim_unseen(self, task: Task, token: str, submitted_ms: int, receive_count: int) -> Row | Refused:
        """Take a task that has no row yet, and make its row."""
        ...

    def hold(
        self, task_id: str, token: str, progress: float | None, node: str | None, started_ms: int | None
    ) -> Row:
        """Extend the lease; tell progress, node and start where given. Raises `LostClaimError`."""
        ...

    def look(self, task_id: str) -> Row | None:
        """Read a task's row."""
        ...

    def release(self, row: Row, token: str, *, counted: bool, has_started: bool) -> None:
        """Give a claimed task back to the queue. Raises `LostClaimError`."""
        ...

    def end(self, row: Row, ending: Ending) -> Row:
        """Give a task its end state. Raises `LostClaimError`."""
        ...

    def end_unseen(self, task: Task, ending: Ending, submitted_ms: int) -> Row:
        """End a task that has no row. Raises `LostClaimError`."""
        ...

    def notified(self, row: Row) -> None:
        """Record that the end state has been published."""
        ...


class TableTasks:
    """Tasks in a DynamoDB table; items are touched by key only."""

    is_shared = True

    def __init__(self, clients: AwsClients, table: str, now_ms: Callable[[], int]) -> None:
        self._clients = clients
        self._table = table
        self._now_ms = now_ms

    def claim(self, task_id: str, token: str, receive_count: int) -> Row | Refused:  # noqa: ARG002
        """Take a task that has a row; the table counts the attempts."""
        return self._granted(task_record.claim_call(task_id, token, self._now_ms()), token)

    def claim_unseen(
        self,
        task: Task,
        token: str,
        submitted_ms: int,
        receive_count: int,  # noqa: ARG002
    ) -> Row | Refused:
        """Take a task that has no row yet, and make its row."""
        body = task_record.pack_body(task.content)
        call = task_record.claim_unseen_call(task, token, self._now_ms(), body, submitted_ms=submitted_ms)
        return self._granted(call, token)

    def _granted(self, call: task_record.Call, token: str) -> Row | Refused:
        try:
            return self._update(call)
        except LostClaimError as error:
            row = error.row
            if row is not None and row.status == contract.RUNNING and row.claim == token:
                return row  # an earlier try took effect, only its answer was lost
            return Refused(row)

    def hold(
        self, task_id: str, token: str, progress: float | None, node: str | None, started_ms: int | None
    ) -> Row:
        """Extend the lease, with progress, node and start where given."""
        call = task_record.hold_call(
            task_id, token, self._now_ms(), progress=progress, node=node, started_at=started_ms
        )
        return self._update(call)

    def look(self, task_id: str) -> Row | None:
        """Read a task's row, consistently."""
        answer = self._client.get_item(
            TableName=self._table, Key=task_record.key_of(task_id), ConsistentRead=True
        )
        item = answer.get("Item")
        return task_record.row_from_item(item) if item else None

    def release(self, row: Row, token: str, *, counted: bool, has_started: bool) -> None:
        """Give a claimed task back to the queue."""
        call = task_record.release_call(row.id, token, row.attempts, counted=counted, has_started=has_started)
        self._update(call)

    def end(self, row: Row, ending: Ending) -> Row:
        """Give a task its end state."""
        return self._update(task_record.end_call(row, ending))

    def end_unseen(self, task: Task, ending: Ending, submitted_ms: int) -> Row:
        """End a task that has no row."""
        body = task_record.pack_body(task.content)
        return self._update(task_record.end_unseen_call(task, ending, submitted_ms=submitted_ms, body=body))

    def notified(self, row: Row) -> None:
        """Record that the end state has been published; a retry that came in between is left alone."""
        try:
            self._update(task_record.notified_call(row))
        except LostClaimError:
            return

    def _update(self, call: task_record.Call) -> Row:
        try:
            answer = self._client.update_item(TableName=self._table, **call)
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            item: Any = error.response.get("Item")
            raise LostClaimError(task_record.row_from_item(item) if item else None) from None
        return task_record.row_from_item(answer["Attributes"])

    @property
    def _client(self) -> Any:
        return self._clients.client("dynamodb")


class MemoryTasks:
    """Tasks of this process alone, with the same rules as far as one process can keep them."""

    is_shared = False

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._rows: OrderedDict[str, Row] = OrderedDict()

    def claim(self, task_id: str, token: str, receive_count: int) -> Row | Refused:
        """Take a task that this process ran before and lost hold of."""
        with self._lock:
            row = self._rows.get(task_id)
            # One that runs and was not held for so long was lost to this process; its message is back.
            if row is None or row.is_ended or row.claim_until >= self._now_ms():
                return Refused(row)
            return self._keep(self._claimed(row, token, receive_count))

    def claim_unseen(self, task: Task, token: str, submitted_ms: int, receive_count: int) -> Row | Refused:
        """Take a task that this process has not seen."""
        with self._lock:
            if task.id in self._rows:
                return Refused(self._rows[task.id])
            return self._keep(self._claimed(self._new(task, submitted_ms), token, receive_count))

    def hold(
        self, task_id: str, token: str, progress: float | None, node: str | None, started_ms: int | None
    ) -> Row:
        """Extend the lease, with progress, node and start where given."""
        with self._lock:
            row = self._own(task_id, token)
            return self._keep(
                dataclasses.replace(
                    row,
                    claim_until=self._now_ms() + task_record.CLAIM_MS,
                    progress=row.progress if progress is None else progress,
                    node=row.node if node is None else node,
                    started_at=row.started_at if started_ms is None else started_ms,
                )
            )

    def look(self, task_id: str) -> Row | None:
        """Read a task's row."""
        with self._lock:
            return self._rows.get(task_id)

    def release(self, row: Row, token: str, *, counted: bool, has_started: bool) -> None:  # noqa: ARG002
        """Forget a task that goes back to the queue: another agent may well run it."""
        with self._lock:
            self._own(row.id, token)
            del self._rows[row.id]

    def end(self, row: Row, ending: Ending) -> Row:
        """Give a task its end state."""
        with self._lock:
            return self._keep(self._ended(self._own(row.id, row.claim), ending))

    def end_unseen(self, task: Task, ending: Ending, submitted_ms: int) -> Row:
        """End a task that this process has not seen."""
        with self._lock:
            if task.id in self._rows:
                raise LostClaimError(self._rows[task.id])
            return self._keep(self._ended(self._new(task, submitted_ms), ending))

    def notified(self, row: Row) -> None:
        """Record that the end state has been published."""
        with self._lock:
            if row.id in self._rows:
                self._keep(dataclasses.replace(self._rows[row.id], notified=True))

    def _own(self, task_id: str, token: str) -> Row:
        row = self._rows.get(task_id)
        if row is None or row.claim != token or row.status != contract.RUNNING:
            raise LostClaimError(row)
        return row

    def _new(self, task: Task, submitted_ms: int) -> Row:
        deadline_at = None
        if task.deadline_seconds is not None:
            deadline_at = submitted_ms + int(task.deadline_seconds * 1000)
        return Row(
            id=task.id, status=contract.QUEUED, runtime=task.runtime, tasktype=task.tasktype,
            prefix=task.prefix, context=task.context, submitted_at=submitted_ms, deadline_at=deadline_at,
            deadline_seconds=task.deadline_seconds, published=True,
        )  # fmt: skip

    def _claimed(self, row: Row, token: str, receive_count: int) -> Row:
        now_ms = self._now_ms()
        return dataclasses.replace(
            row, status=contract.RUNNING, claim=token, claim_until=now_ms + task_record.CLAIM_MS,
            started_at=now_ms, attempts=receive_count,
        )  # fmt: skip

    @staticmethod
    def _ended(row: Row, ending: Ending) -> Row:
        return dataclasses.replace(
            row, status=ending.status, finished_at=ending.finished_at, image_url=tuple(ending.image_url),
            output_url=ending.output_url, error=ending.error, claim="", claim_until=0,
            started_at=row.started_at if ending.started_at is None else ending.started_at,
            run_ms=ending.run_ms, attempts=row.attempts if ending.attempts is None else ending.attempts,
        )  # fmt: skip

    def _keep(self, row: Row) -> Row:
        self._rows[row.id] = row
        self._rows.move_to_end(row.id)
        if len(self._rows) > REMEMBERED_TASKS:
            oldest = next((task_id for task_id, kept in self._rows.items() if kept.is_ended), None)
            if oldest is not None:
                del self._rows[oldest]
        return row
