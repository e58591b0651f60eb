"""The function's entry, on the queue that takes every message of the input topic for a moment.

A message that a runtime's queue takes is forgotten here; any other goes to the queue `unrouted`, whose
alarm tells people.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from sdctl.contract import RuntimeInfo
from sdctl_lambda.aws import Aws
from sdctl_lambda.envelopes import envelope_attributes, routed_runtime
from sdctl_lambda.records import settle_each
from sdctl_lambda.settings import read_runtimes


@functools.cache
def _aws() -> Aws:
    return Aws()


def handle(event: Mapping[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Settle one batch of the intake queue."""
    runtimes = read_runtimes(os.environ["RUNTIMES"])
    queue_url = os.environ["UNROUTED_QUEUE_URL"]

    def keep(body: str) -> None:
        _aws().client("sqs").send_message(QueueUrl=queue_url, MessageBody=body)

    return settle_each(event, lambda record: settle(record, runtimes, keep))


def settle(
    record: Mapping[str, Any], runtimes: Mapping[str, RuntimeInfo], keep: Callable[[str], None]
) -> dict[str, object]:
    """Keep one message where no runtime's queue takes it."""
    if routed_runtime(envelope_attributes(record["body"]), runtimes) is not None:
        return {"is_routed": True}
    keep(record["body"])
    return {"is_routed": False}
