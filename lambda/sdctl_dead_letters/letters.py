"""One dead letter: which task it is, and the task's end. Reads and writes through what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sdctl import contract, task_record
from sdctl.contract import RuntimeInfo, Task, UndecodableMessageError
from sdctl.task_record import Ending, Row
from sdctl_lambda.envelopes import envelope_attributes, routed_runtime
from sdctl_lambda.records import LeaveError
from sdctl_lambda.settling import notify
from sdctl_lambda.table import ConditionFailedError, Table
from sdctl_lambda.topics import Topics

ERROR: Final = {
    "code": "dead_letter",
    "message": "no agent could finish this task: its message was received too often and given up; "
    "retry the task once the runtime works again",
}
# Clocks of SQS and of whoever wrote the row may differ by as much.
CLOCK_SKEW_MS: Final = 5_000
MAX_TRIES: Final = 4


def read_letter(body: str, message_id: str, runtimes: Mapping[str, RuntimeInfo]) -> Task:
    """Read a task as its agent would have.

    The runtime is the one that the message was routed to, else the one that its metadata names.

    Raises:
        LeaveError: it cannot be decoded, or belongs to no deployed runtime: people must look at it.
    """
    try:
        runtime = runtime_of(body, runtimes)
        types = contract.TASK_TYPES.get(runtime.type, contract.ALL_TASK_TYPES) if runtime else ()
        task = contract.parse_message(
            body, runtime=runtime.name if runtime else "", task_types=types, message_id=message_id
        )
    except UndecodableMessageError as error:
        raise LeaveError("undecodable") from error
    if runtime is None:
        raise LeaveError("no_runtime")
    return task


def runtime_of(body: str, runtimes: Mapping[str, RuntimeInfo]) -> RuntimeInfo | None:
    """Return the deployed runtime of a letter: where it was routed to, else what its metadata names."""
    routed = routed_runtime(envelope_attributes(body), runtimes)
    return routed or runtimes.get(_named_runtime(body).lower())


def _named_runtime(body: str) -> str:
    """Return the name in a letter's metadata; empty where there is none, or no JSON."""
    try:
        document = contract.decode_json(body)
        if isinstance(document, dict) and isinstance(document.get("Message"), str):
            document = contract.decode_json(document["Message"])
    except ValueError:
        return ""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("runtime") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


class Ender:
    """Ends the tasks of dead letters as `failed` and tells of it."""

    def __init__(self, table: Table, topics: Topics, now_ms: Callable[[], int]) -> None:
        self._table = table
        self._topics = topics
        self._now_ms = now_ms

    def end(self, task: Task, sent_ms: int) -> str:
        """End a task whose message was sent at `sent_ms`; returns what was done or found.

        Raises:
            LeaveError: it runs right now, or keeps changing: look again later.
        """
        for _ in range(MAX_TRIES):
            row = self._table.get(task.id)
            try:
                return self._end_unseen(task, sent_ms) if row is None else self._end(row, sent_ms)
            except ConditionFailedError:
                continue
        raise LeaveError("contended")

    def _end_unseen(self, task: Task, sent_ms: int) -> str:
        body = task_record.pack_body(task.content) if task.content else b""
        call = task_record.end_unseen_call(task, self._failed(), submitted_ms=sent_ms, body=body)
        notify(self._table, self._topics, self._table.update(call))
        return "ended"

    def _end(self, row: Row, sent_ms: int) -> str:
        if sent_ms + CLOCK_SKEW_MS < row.queued_at:
            return "stale"  # the task was retried since, with a message of its own
        if row.is_ended:
            if row.notified:
                return "known"
            notify(self._table, self._topics, row)
            return "notified"
        if row.status == contract.RUNNING and row.claim_until > self._now_ms():
            raise LeaveError("running")
        notify(self._table, self._topics, self._table.update(task_record.end_call(row, self._failed())))
        return "ended"

    def _failed(self) -> Ending:
        return Ending(contract.FAILED, self._now_ms(), error=ERROR)


def sent_at_ms(record: Mapping[str, Any]) -> int:
    """Return when a record's message was first sent; the redrive keeps the time."""
    return int(record["attributes"]["SentTimestamp"])
