"""The function's entry, on the intake queue: copies what reaches no runtime to the unrouted queue."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, Final

from sdctl_lambda.aws import Aws
from sdctl_lambda.envelopes import envelope_attributes, routed_runtime
from sdctl_lambda.records import settle_each
from sdctl_lambda.registry import Registry

# A runtime that is being removed leaves the list before its queue's subscription goes: with a list as new
# as the message itself, nothing is taken for routed that its queue did not get.
LIST_SECONDS: Final = 2.0


class Unrouted:
    """Keeps the messages that no runtime's queue takes; the others are dropped here, their queue has them."""

    def __init__(self, registry: Registry, queue_url: str, aws: Aws) -> None:
        self._registry = registry
        self._queue_url = queue_url
        self._aws = aws

    def settle(self, record: Mapping[str, Any]) -> dict[str, object]:
        """Forward one record as it is, unless it has a route."""
        attributes = envelope_attributes(record["body"])
        runtimes = self._registry.runtimes(lambda known: routed_runtime(attributes, known))
        runtime = routed_runtime(attributes, runtimes)
        if runtime is not None:
            return {"runtime": runtime.name}
        self._aws.client("sqs").send_message(QueueUrl=self._queue_url, MessageBody=record["body"])
        return {"runtime": None}


@functools.cache
def _unrouted() -> Unrouted:
    aws = Aws()
    registry = Registry(aws, os.environ["RUNTIMES_PATH"], max_age_seconds=LIST_SECONDS)
    return Unrouted(registry, os.environ["UNROUTED_QUEUE_URL"], aws)


def handle(event: Mapping[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Settle one batch; a message that cannot be forwarded now is received again."""
    return settle_each(event, _unrouted().settle)
