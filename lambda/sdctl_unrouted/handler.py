"""The function's entry, on the intake queue: copies what reaches no runtime to the unrouted queue."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

from sdctl.contract import RuntimeInfo
from sdctl_lambda.aws import Aws
from sdctl_lambda.envelopes import envelope_attributes, routed_runtime
from sdctl_lambda.records import settle_each
from sdctl_lambda.settings import read_runtimes


class Unrouted:
    """Keeps the messages that no runtime's queue takes; the others are dropped here, their queue has them."""

    def __init__(self, runtimes: Mapping[str, RuntimeInfo], queue_url: str, aws: Aws) -> None:
        self._runtimes = runtimes
        self._queue_url = queue_url
        self._aws = aws

    def settle(self, record: Mapping[str, Any]) -> dict[str, object]:
        """Forward one record as it is, unless it has a route."""
        runtime = routed_runtime(envelope_attributes(record["body"]), self._runtimes)
        if runtime is not None:
            return {"runtime": runtime.name}
        self._aws.client("sqs").send_message(QueueUrl=self._queue_url, MessageBody=record["body"])
        return {"runtime": None}


@functools.cache
def _unrouted() -> Unrouted:
    return Unrouted(read_runtimes(os.environ["RUNTIMES"]), os.environ["UNROUTED_QUEUE_URL"], Aws())


def handle(event: Mapping[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Settle one batch; a message that cannot be forwarded now is received again."""
    return settle_each(event, _unrouted().settle)
