"""The function's entry, started by the clock every minute."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from sdctl_lambda.aws import Aws
from sdctl_lambda.contents import Contents
from sdctl_lambda.log_lines import log_line
from sdctl_lambda.registry import Registry
from sdctl_lambda.settings import read_settings
from sdctl_lambda.table import Table
from sdctl_lambda.topics import Topics
from sdctl_sweep.sweeping import Sweeper

# Enough for the row in hand, each of its calls retried.
RESERVE_MS: Final = 10_000


class Context(Protocol):
    """What Lambda passes beside the event."""

    def get_remaining_time_in_millis(self) -> int:
        """Return how long this call may still take."""


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


@functools.cache
def _sweeper() -> tuple[Sweeper, Registry]:
    settings, aws = read_settings(os.environ), Aws()
    topics = Topics(aws, input_arn=settings.input_topic_arn, output_arn=settings.output_topic_arn)
    contents = Contents(aws, settings.output_bucket)
    registry = Registry(aws, settings.runtimes_path)
    return Sweeper(Table(aws, settings.table), topics, contents, _clock_ms), registry


def handle(event: Mapping[str, Any], context: Context) -> dict[str, int]:  # noqa: ARG001 - Lambda's signature
    """Run one sweep."""
    sweeper, registry = _sweeper()
    names = [info.name for info in registry.runtimes().values()]
    done = sweeper.sweep(names, lambda: context.get_remaining_time_in_millis() > RESERVE_MS)
    log_line("sweep", **done)
    return done
