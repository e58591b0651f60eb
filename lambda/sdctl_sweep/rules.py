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
    CANCEL = "cancel"
    NOTIFY = "notify"


def need_of(row: Row, now_ms: int, *, is_deployed: bool = True) -> Need:
    """Decide what a row needs at `now_ms`; the queue of a runtime that is not deployed is gone."""
    is_stranded = not is_deployed and not row.is_ended
    if row.open_until >= now_ms and not is_stranded:
        return Need.NOTHING
    if row.is_ended:
        return Need.NOTHING if row.notified else Need.NOTIFY
    if row.status == contract.RUNNING and row.claim_until > now_ms:
        return Need.NOTHING  # held by its agent, which ends it
    if row.cancel_requested:
        return Need.CANCEL  # its agent went away or gave it back, and nobody may claim it any more
    if is_stranded or row.queued_at + RETENTION_MS < now_ms:
        return Need.EXPIRE  # its message is gone from the queue
    if row.status != contract.QUEUED:
        return Need.NOTHING
    # A deadline is for the start: a task that was handed back has started before.
    if row.deadline_at is not None and row.deadline_at <= now_ms and row.started_at is None:
        return Need.EXPIRE
    return Need.NOTHING if row.published else Need.PUBLISH


def ending_of(row: Row, need: Need, now_ms: int, *, is_deployed: bool = True) -> Ending:
    """Make the end of a row that waited too long or whose cancel nobody is left to carry out."""
    if need is Need.CANCEL:
        error = {"code": "cancelled", "message": "cancelled while no agent held it"}
        return Ending(contract.CANCELLED, now_ms, error=error)
    if row.deadline_at is not None and row.deadline_at <= now_ms and row.started_at is None:
        reason = "the deadline passed before it started"
    elif not is_deployed:
        reason = f'runtime "{row.runtime}" is not deployed any more'
    else:
        reason = "the queue keeps no message for longer"
    return Ending(contract.EXPIRED, now_ms, error={"code": "expired", "message": reason})
