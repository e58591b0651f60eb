"""The function's entry, on the dead-letter queues of all runtimes."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from typing import Any

from sdctl_dead_letters.letters import Ender, read_letter, runtime_of, sent_at_ms
from sdctl_lambda.aws import Aws
from sdctl_lambda.records import settle_each
from sdctl_lambda.registry import Registry
from sdctl_lambda.settings import Settings, read_settings
from sdctl_lambda.table import Table
from sdctl_lambda.topics import Topics


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


class DeadLetters:
    """Ends the tasks of dead letters."""

    def __init__(self, settings: Settings, aws: Aws) -> None:
        self._registry = Registry(aws, settings.runtimes_path)
        topics = Topics(aws, input_arn=settings.input_topic_arn, output_arn=settings.output_topic_arn)
        self._ender = Ender(Table(aws, settings.table), topics, _clock_ms)

    def settle(self, record: Mapping[str, Any]) -> dict[str, object]:
        """End the task of one record."""
        body = record["body"]
        runtimes = self._registry.runtimes(lambda known: runtime_of(body, known))
        task = read_letter(body, record["messageId"], runtimes)
        return {"id": task.id, "done": self._ender.end(task, sent_at_ms(record))}


@functools.cache
def _dead_letters() -> DeadLetters:
    return DeadLetters(read_settings(os.environ), Aws())


def handle(event: Mapping[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Settle one batch of dead letters."""
    return settle_each(event, _dead_letters().settle)
