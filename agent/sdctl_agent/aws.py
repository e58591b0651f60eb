"""The agent's AWS clients: one a service, made when first needed, and what their errors mean.

botocore alone, since boto3 costs start-up time and memory and adds nothing here. The instance metadata
service is never asked; credentials of the environment, files, containers and pod identity all work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.parsers import ResponseParserError

from sdctl_agent.errors import TransientError

CONNECT_TIMEOUT_SECONDS = 3.0
READ_TIMEOUT_SECONDS = {"s3": 60.0, "sqs": 10.0, "sns": 10.0, "dynamodb": 5.0}
# A step of S3, SNS, SQS or DynamoDB is tried for this long before the task itself is.
STEP_SECONDS = 900.0
# The last is no BotoCoreError: what a gateway in between answers need not be what the service speaks.
AWS_FAILURES = (BotoCoreError, ClientError, ResponseParserError)

T = TypeVar("T")


class AwsClients:
    """Makes and keeps the clients; safe to use from several threads."""

    def __init__(self, region: str) -> None:
        # botocore would ask 169.254.169.254 as the last resort for credentials.
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
        from botocore.session import Session

        self._session = Session()
        self._region = region
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """Return the client of a service."""
        client = self._clients.get(service)
        if client is None:
            with self._lock:
                client = self._clients.get(service) or self.make(service)
                self._clients[service] = client
        return client

    def warm_up(self, services: Iterable[str]) -> None:
        """Make the clients of some services now."""
        for service in services:
            self.client(service)

    def make(self, service: str, *, read_timeout_seconds: float | None = None, attempts: int = 2) -> Any:
        """Make one more client of a service, with its own connections.

        Not safe while another thread makes one, too: botocore's session is not.
        """
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=read_timeout_seconds or READ_TIMEOUT_SECONDS[service],
            retries={"total_max_attempts": attempts, "mode": "standard"},
            max_pool_connections=16,
            tcp_keepalive=True,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra="sd-queue-agent",
        )
        return self._session.create_client(service, region_name=self._region, config=config)


def error_code(error: Exception) -> str:
    """Return AWS's code of an error (`NoSuchKey`), or the class name where none was answered."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "")) or type(error).__name__
    return type(error).__name__


class StepAbandonedError(Exception):
    """A step was given up because the task is no longer this agent's to finish."""


class StepFailedError(TransientError):
    """A step kept failing for longer than it is tried."""

    code = "aws_unavailable"


def retry_step(
    name: str,
    call: Callable[[], T],
    *,
    abandoned: threading.Event,
    now: Callable[[], float],
    on_error: Callable[[str, str], None],
    limit_seconds: float = STEP_SECONDS,
) -> T:
    """Call until it succeeds, waiting between tries, since only this step failed and not the task.

    Args:
        name: of the step, for the log.
        call: one try.
        abandoned: set when the task must not be touched any more.
        now: a monotonic clock.
        on_error: told (step, AWS code) of each failed try.
        limit_seconds: how long to go on.

    Raises:
        StepAbandonedError: `abandoned` was set.
        StepFailedError: it still failed after `limit_seconds`.
    """
    deadline = now() + limit_seconds
    delay = 0.1
    while True:
        if abandoned.is_set():
            raise StepAbandonedError(name)
        try:
            return call()
        except ParamValidationError:
            raise
        except AWS_FAILURES as error:
            code = error_code(error)
            on_error(name, code)
            if now() + delay >= deadline:
                raise StepFailedError(f"{name} failed for {limit_seconds:.0f} s: {code}") from error
        if abandoned.wait(delay):
            raise StepAbandonedError(name)
        delay = min(delay * 2, 10.0)
