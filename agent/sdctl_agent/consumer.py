"""The queue: receive, delete, extend, release and set aside messages of one SQS queue.

Knows nothing of tasks. The long poll has a client of its own, so that it can be aborted without
disturbing the connections over which messages are settled.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError

from sdctl import contract
from sdctl_agent.aws import AWS_FAILURES, AwsClients, error_code
from sdctl_agent.job import Job, Message

LONG_POLL_SECONDS = 20
# SQS takes at most this many messages in one batch:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibilityBatch.html
BATCH_SIZE = 10

log = logging.getLogger(__name__)


class PollAbortedError(Exception):
    """The long poll was aborted on purpose."""


class _AbortableConnections:
    """Knows the sockets of one client, so that a read that blocks can be ended from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._is_shut = False

    def watch(self, client: Any) -> None:
        """Make the client's connections report their sockets.

        botocore offers no public way to its connection pools; without these attributes an abort does
        nothing, and the process's end closes the poll.
        """
        session = getattr(getattr(client, "_endpoint", None), "http_session", None)
        pools: dict[str, Any] | None = getattr(session, "_pool_classes_by_scheme", None)
        if pools is None:
            log.warning("the long poll cannot be aborted with this botocore", extra={"action": "poll_plain"})
            return
        for scheme, pool in list(pools.items()):
            connection = self._reporting(pool.ConnectionCls)
            pools[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})

    def _reporting(self, base: Any) -> Any:
        owner = self

        class ReportingConnection(base):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                with owner._lock:
                    owner._sockets.add(self.sock)
                    if owner._is_shut:  # the abort came before the connection
                        _shut_down(self.sock)

            def close(self) -> None:
                with owner._lock:
                    owner._sockets.discard(self.sock)
                super().close()

        return ReportingConnection

    def shut_down(self) -> None:
        with self._lock:
            self._is_shut = True
            for connected in self._sockets:
                _shut_down(connected)


def _shut_down(connected: socket.socket) -> None:
    try:
        # Not the TLS object's own shutdown: that would pull it away under the reading thread.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
    except OSError as error:
        log.debug("socket was closed already: %s", error, extra={"action": "poll_abort"})


class Consumer:
    """One queue, and where what cannot be decoded goes."""

    def __init__(
        self, clients: AwsClients, queue_url: str, dead_letter_queue_url: str, now: Callable[[], float]
    ) -> None:
        self._clients = clients
        self._queue_url = queue_url
        self._dead_letter_queue_url = dead_letter_queue_url
        self._now = now
        self._poller: Any = None
        self._connections = _AbortableConnections()
        self._aborted = threading.Event()

    def open(self) -> None:
        """Make the client of the long poll, if it is not there yet."""
        if self._poller is None:
            read_timeout = LONG_POLL_SECONDS + 10.0
            self._poller = self._clients.make("sqs", read_timeout_seconds=read_timeout, attempts=1)
            self._connections.watch(self._poller)

    def receive(self, limit: int, wait_seconds: int) -> list[Message]:
        """Receive up to `limit` messages, waiting for the first one at most `wait_seconds`.

        Raises:
            PollAbortedError: `abort` was called.
            BotoCoreError, ClientError: the call failed.
        """
        self.open()
        if self._aborted.is_set():
            raise PollAbortedError
        try:
            answer = self._poller.receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=limit,
                WaitTimeSeconds=wait_seconds,
                VisibilityTimeout=contract.VISIBILITY_SECONDS,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp", "AWSTraceHeader"],
                MessageAttributeNames=["All"],
            )
        except AWS_FAILURES:
            if self._aborted.is_set():
                raise PollAbortedError from None
            raise
        received_at = self._now()
        return [_message(item, received_at) for item in answer.get("Messages", ())]

    def abort(self) -> None:
        """End the long poll now, and refuse another."""
        self._aborted.set()
        self._connections.shut_down()

    def delete(self, message: Message) -> None:
        """Delete a message: its task is settled."""
        with _unless_gone():
            self._sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message.receipt)

    def release(self, message: Message, delay_seconds: int) -> None:
        """Make a message visible again after `delay_seconds`."""
        with _unless_gone():
            self._sqs.change_message_visibility(
                QueueUrl=self._queue_url, ReceiptHandle=message.receipt, VisibilityTimeout=delay_seconds
            )

    def extend(self, jobs: Sequence[Job]) -> dict[Job, str]:
        """Keep messages invisible for `VISIBILITY_SECONDS` from now.

        Returns:
            The jobs whose messages could not be extended, each with the error code of SQS.
        """
        failed: dict[Job, str] = {}
        for first in range(0, len(jobs), BATCH_SIZE):
            batch = jobs[first : first + BATCH_SIZE]
            answer = self._sqs.change_message_visibility_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {
                        "Id": str(number),
                        "ReceiptHandle": job.message.receipt,
                        "VisibilityTimeout": contract.VISIBILITY_SECONDS,
                    }
                    for number, job in enumerate(batch)
                ],
            )
            for entry in answer.get("Failed", ()):
                failed[batch[int(entry["Id"])]] = str(entry.get("Code", ""))
        return failed

    @property
    def can_set_aside(self) -> bool:
        """Tell whether there is a queue for what cannot be decoded."""
        return bool(self._dead_letter_queue_url)

    def set_aside(self, message: Message) -> None:
        """Copy a message to the dead-letter queue; `delete` has to follow."""
        attributes = {
            name: {key: value[key] for key in ("DataType", "StringValue", "BinaryValue") if key in value}
            for name, value in message.attributes.items()
        }
        self._sqs.send_message(
            QueueUrl=self._dead_letter_queue_url, MessageBody=message.body, MessageAttributes=attributes
        )

    @property
    def _sqs(self) -> Any:
        return self._clients.client("sqs")


def is_gone(error: ClientError) -> bool:
    """Tell whether SQS says that a receipt stands for nothing any more: it would say so for ever.

    The message was deleted, is visible again, or was received by someone else. Codes and texts:
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibility.html
    """
    code = error_code(error).rpartition(".")[2]
    text = str(error.response.get("Error", {}).get("Message", "")).lower()
    stale = code == "InvalidParameterValue" and (
        "receipthandle" in text.replace(" ", "") or "in flight" in text
    )
    return stale or code in ("ReceiptHandleIsInvalid", "MessageNotInflight")


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Take it as done when there is no message any more that it could be done to."""
    try:
        yield
    except ClientError as error:
        if not is_gone(error):
            raise
        log.info("message is gone already: %s", error_code(error), extra={"action": "message_gone"})


def _message(item: dict[str, Any], received_at: float) -> Message:
    system = item.get("Attributes", {})
    return Message(
        id=str(item.get("MessageId", "")),
        receipt=item["ReceiptHandle"],
        body=item.get("Body", ""),
        receive_count=int(system.get("ApproximateReceiveCount", 1)),
        sent_ms=int(system.get("SentTimestamp", 0)),
        received_at=received_at,
        attributes=item.get("MessageAttributes", {}),
        trace=str(system.get("AWSTraceHeader", "")),
    )
