"""Cancel and retry: changes of one task that somebody asked for, raced by agents, sweep and each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sdctl import contract, task_record
from sdctl.task_record import Ending, Row
from sdctl_api.exchange import ApiError
from sdctl_lambda.contents import ContentLostError, Contents
from sdctl_lambda.settling import notify, publish_row
from sdctl_lambda.table import ConditionFailedError, Table
from sdctl_lambda.topics import QueueUnavailableError, Topics

# A change starts from the state that was read; so often may another be quicker before we give up.
MAX_TRIES: Final = 5


class Changer:
    """Cancels and retries tasks."""

    def __init__(
        self,
        table: Table,
        topics: Topics,
        contents: Contents,
        now_ms: Callable[[], int],
        *,
        is_deployed: Callable[[str], bool],
    ) -> None:
        """Take what tells whether a runtime is deployed, beside what the changes go through."""
        self._table = table
        self._topics = topics
        self._contents = contents
        self._now_ms = now_ms
        self._is_deployed = is_deployed

    def get(self, task_id: str) -> Row:
        """Read a task.

        Raises:
            ApiError: `not_found`.
        """
        row = self._table.get(task_id) if contract.ID_PATTERN.fullmatch(task_id) else None
        if row is None:
            raise ApiError("not_found", f"there is no task {contract.found(task_id)}")
        return row

    def cancel(self, task_id: str) -> Row:
        """End a queued task and tell of it, or ask the agent that runs it to stop.

        Raises:
            ApiError: `not_found`, `task_ended`, or `queue_unavailable`: then it is cancelled, and asking
                again (or the sweep) tells of it.
        """
        return self._from_latest(task_id, self._cancel)

    def retry(self, task_id: str) -> Row:
        """Put a failed, expired or cancelled task into its queue again.

        A retry that was cut off before its message was published is completed.

        Raises:
            ApiError: `not_found`; `task_ended` for a completed task or one whose content or runtime is
                gone; `id_conflict` while it is queued or running; `queue_unavailable`.
        """
        return self._from_latest(task_id, self._retry)

    def _from_latest(self, task_id: str, change: Callable[[Row], Row]) -> Row:
        for _ in range(MAX_TRIES):
            try:
                return change(self.get(task_id))
            except ConditionFailedError:
                continue
            except QueueUnavailableError as error:
                raise ApiError(
                    "queue_unavailable", f'the queue did not take the news of task "{task_id}"; try again'
                ) from error
        raise ApiError("id_conflict", f'task "{task_id}" keeps changing; try again')

    def _cancel(self, row: Row) -> Row:
        if row.status == contract.RUNNING:
            return self._table.update(task_record.cancel_call(row.id, self._now_ms()))
        if row.status == contract.QUEUED:
            error = {"code": "cancelled", "message": "cancelled before it started"}
            ending = Ending(contract.CANCELLED, self._now_ms(), error=error)
            row = self._table.update(task_record.end_call(row, ending))
        elif row.status != contract.CANCELLED or row.notified:
            raise ApiError("task_ended", f'task "{row.id}" has ended: {row.status}')
        notify(self._table, self._topics, row)
        return row

    def _retry(self, row: Row) -> Row:
        if not self._is_deployed(row.runtime):
            raise ApiError(
                "task_ended", f'runtime "{row.runtime}" is not deployed any more; submit the task to another'
            )
        if row.status == contract.QUEUED and not row.published:
            self._publish(row)
            return row
        if not row.is_ended:
            raise ApiError("id_conflict", f'task "{row.id}" is {row.status}; cancel it first, or wait')
        if row.status not in contract.RETRYABLE_STATUSES:
            raise ApiError("task_ended", f'task "{row.id}" is {row.status}; submit it under another id')
        if not row.notified:  # the end must be told before the row forgets it
            notify(self._table, self._topics, row)
        self._require_content(row)
        row = self._table.update(task_record.retry_call(row, self._now_ms()))
        self._publish(row)
        return row

    def _require_content(self, row: Row) -> None:
        try:
            if row.body_key:
                self._contents.renew(row)
            elif not row.body:
                raise ContentLostError(row.id)
        except ContentLostError as error:
            raise ApiError(
                "task_ended", f'task "{row.id}" has ended and its content is not kept; submit it anew'
            ) from error

    def _publish(self, row: Row) -> None:
        publish_row(self._table, self._topics, self._contents, row, self._now_ms())
