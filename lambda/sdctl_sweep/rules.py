"""What an overdue row needs. Pure.

A row is in the index `open` until nothing is left to be done for it, sorted by when it is overdue.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from sdctl import contract
from sdctl.task_record import Ending, Row

RETENTION_MS: Final = contract.QUEUE_RETENTION_SECONDS * 1000


class Need(Enum):
    """What is to be done for a row."""

    NOTHING = "nothing"
    PUBLISH = "publish"
    EXPIRE = "expire"
    NOTIFY = "notify"


def need_of(row: Row, now_ms: int) -> Need:
    """Decide what a row needs at `now_ms`."""
    if row.open_until >= now_ms:
        return Need.NOTHING
    if row.is_ended:
        return Need.NOTHING if row.notified else Need.NOTIFY
    if row.queued_at + RETENTION_MS < now_ms:
        # Its message is gone from the queue. One that still runs is held by its agent and ends by itself.
        is_held = row.status == contract.RUNNING and row.claim_until > now_ms
        return Need.NOTHING if is_held else Need.EXPIRE
    if row.status != contract.QUEUED:
        return Need.NOTHING
    # A deadline is for the start: a task that was handed back has started before.
    if row.deadline_at is not None and row.deadline_at <= now_ms and row.started_at is None:
        return Need.EXPIRE
    return Need.NOTHING if row.published else Need.PUBLISH


def expiry(row: Row, now_ms: int) -> Ending:
    """Make the end of a row that waited too long."""
    is_late = row.deadline_at is not None and row.deadline_at <= now_ms and row.started_at is None
    reason = "the deadline passed before it started" if is_late else "the queue keeps no message for longer"
    return Ending(contract.EXPIRED, now_ms, error={"code": "expired", "message": reason})
