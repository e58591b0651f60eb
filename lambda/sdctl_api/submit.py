"""A submit: one row, then one message; a repeat or a crash in between loses and doubles nothing.

Order: content into S3 where it must, the row where the id is new, the message, the row's `published`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl.task_record import Row
from sdctl_api.exchange import ApiError
from sdctl_lambda.contents import Contents
from sdctl_lambda.settling import record_published
from sdctl_lambda.table import ConditionFailedError, Table
from sdctl_lambda.topics import QueueUnavailableError, Topics, needs_pointer


@dataclass(frozen=True, slots=True)
class Accepted:
    """A task that is in the table and in the queue; `is_replay` where this request started nothing."""

    row: Row
    is_replay: bool


class Submitter:
    """Puts tasks into the table and the input topic."""

    def __init__(self, table: Table, topics: Topics, contents: Contents, now_ms: Callable[[], int]) -> None:
        self._table = table
        self._topics = topics
        self._contents = contents
        self._now_ms = now_ms

    def submit(self, task: Task) -> Accepted:
        """Accept a task, or recognise it as one that was accepted before.

        Raises:
            ApiError: `id_conflict` for an id in use, `queue_unavailable` where SNS does not answer.
        """
        is_inline = not needs_pointer(task)
        # What the message cannot hold the row will not hold either: megabytes are not packed in vain.
        body = task_record.pack_body(task.content) if is_inline else b""
        if not is_inline or len(body) > task_record.INLINE_BODY_BYTES:
            task = self._contents.keep(task)
        call = task_record.submit_call(task, self._now_ms(), body)
        try:
            self._table.put(call)
        except ConditionFailedError as failure:
            return self._submit_again(task, failure.row, is_inline=is_inline)
        row = task_record.row_from_item(call["Item"])
        self._publish(task, row, is_inline=is_inline)
        return Accepted(row, is_replay=False)

    def _submit_again(self, task: Task, row: Row | None, *, is_inline: bool) -> Accepted:
        row = row or self._table.get(task.id)
        if row is None or row.hash != task.content_hash:
            raise ApiError("id_conflict", f'id "{task.id}" is in use by another task; choose another one')
        if row.status == contract.QUEUED and not row.published:
            self._publish(task, row, is_inline=is_inline)
        return Accepted(row, is_replay=True)

    def _publish(self, task: Task, row: Row, *, is_inline: bool) -> None:
        try:
            self._topics.publish_task(task, inline=is_inline)
        except QueueUnavailableError as error:
            raise ApiError(
                "queue_unavailable",
                f'the queue did not take task "{task.id}"; it is kept: send it again with this id, or wait',
            ) from error
        record_published(self._table, row, self._now_ms())


def answer_v1alpha2(accepted: Accepted, bucket: str) -> dict[str, Any]:
    """Render what `POST v1alpha2` answers."""
    row = accepted.row
    return {
        "id_task": row.id,
        "id": row.id,
        "runtime": row.runtime,
        "status": row.status,
        "output_location": contract.output_location(bucket, row.prefix, row.id),
        "replayed": accepted.is_replay,
    }


def answer_v1alpha1(accepted: Accepted, bucket: str, checkpoint: str) -> dict[str, Any]:
    """Render what `POST v1alpha1` answers."""
    row = accepted.row
    return {
        "id_task": row.id,
        "sd_model_checkpoint": checkpoint,
        "output_location": contract.output_location(bucket, row.prefix, row.id),
    }
