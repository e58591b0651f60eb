"""Batches of queue messages: each settled by itself, those that failed named to SQS.

Answer: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html (ReportBatchItemFailures)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from sdctl_lambda.log_lines import log_line, where


class LeaveError(Exception):
    """A message stays in its queue; `reason` is a stable word for the log."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def settle_each(
    event: Mapping[str, Any], settle: Callable[[Mapping[str, Any]], Mapping[str, object]]
) -> dict[str, Any]:
    """Settle each record of an SQS event and report the others.

    Args:
        event: `{"Records": [{"messageId", "body", "attributes", …}]}`.
        settle: settles one record and returns what the log may tell of it.
    """
    failures = []
    for record in event.get("Records", ()):
        started = time.perf_counter()
        try:
            details = {"outcome": "settled", **settle(record)}
        except LeaveError as error:
            details = {"outcome": "left", "reason": error.reason}
        except Exception as error:  # noqa: BLE001 - the process boundary: one bad message stops no other
            details = {"outcome": "failed", **where(error)}
        if details["outcome"] != "settled":
            failures.append({"itemIdentifier": record["messageId"]})
        milliseconds = round((time.perf_counter() - started) * 1000, 1)
        log_line("record", message_id=record["messageId"], ms=milliseconds, **details)
    return {"batchItemFailures": failures}
