"""What every part does that publishes a task again, or ends one that no agent runs."""

from __future__ import annotations

from sdctl import task_record
from sdctl.task_record import Row
from sdctl_lambda.contents import ContentLostError, Contents
from sdctl_lambda.table import ConditionFailedError, Table
from sdctl_lambda.topics import Topics, needs_pointer


def publish_row(table: Table, topics: Topics, contents: Contents, row: Row, now_ms: int) -> None:
    """Publish a queued task from what its row keeps, then record it.

    Raises:
        ContentLostError: the row has no content.
        QueueUnavailableError: SNS did not accept the message; the row stays unpublished.
    """
    if row.body_key:
        task = task_record.republished_task(row, {})
    elif row.body:
        task = task_record.republished_task(row, task_record.unpack_body(row.body))
        if needs_pointer(task):  # as large as SNS takes it when it was published directly
            task = contents.keep(task)
    else:
        raise ContentLostError(row.id)
    topics.publish_task(task, inline=task.pointer is None)
    record_published(table, row, now_ms)


def record_published(table: Table, row: Row, now_ms: int) -> None:
    """Record that SNS has a task's message; an agent or a cancel may have been quicker."""
    try:
        table.update(task_record.published_call(row, now_ms))
    except ConditionFailedError:
        return


def notify(table: Table, topics: Topics, row: Row) -> None:
    """Publish the result of an ended task, then record it; somebody else may have recorded it already.

    Raises:
        QueueUnavailableError: SNS did not accept the message; the row stays open for the sweep.
    """
    topics.publish_result(row)
    try:
        table.update(task_record.notified_call(row))
    except ConditionFailedError:
        return
