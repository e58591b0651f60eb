"""Moving what a dead-letter queue holds back to its queue, and emptying queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.clients.queue_depth import QueueDepth, queue_name
from sdctl.errors import AwsError
from sdctl.polling import REAL_CLOCK, Clock, Pace, poll

MOVE_SECONDS: Final = 900.0
_MOVE_PACE: Final = Pace(interval_seconds=1.0, factor=1.3, ceiling_seconds=5.0)
# Long enough to send what was received on, short enough that an interrupted move loses no time.
_VISIBILITY_SECONDS: Final = 30
_BATCH: Final = 10


class Queues:
    """The changes to queues that people ask for."""

    def __init__(self, aws: Aws, clock: Clock = REAL_CLOCK) -> None:
        """Use the session; the clock is for waiting."""
        self._aws = aws
        self._clock = clock

    def redrive(self, source: str, target: str, tell: Callable[[int], None]) -> int:
        """Let SQS move all messages of a dead-letter queue back, and wait for it.

        Interrupted, it goes on in SQS. A message may come twice, never not at all.

        Args:
            source: the dead-letter queue's URL.
            target: the queue's URL.
            tell: gets the approximate number of messages moved so far.

        Returns:
            How many were moved, as SQS counts.

        Raises:
            AwsError: SQS cannot, or gave up.
            WaitTimeoutError: it takes longer than a quarter of an hour.
        """
        sqs, origin = self._aws.client("sqs"), self._arn(source)
        with aws_errors(f"move the messages of {queue_name(source)}"):
            sqs.start_message_move_task(SourceArn=origin, DestinationArn=self._arn(target))
        last: list[str] = [""]

        def probe() -> int | None:
            with aws_errors(f"follow the move of {queue_name(source)}"):
                found: dict[str, Any] = sqs.list_message_move_tasks(SourceArn=origin, MaxResults=1)[
                    "Results"
                ][0]
            status, moved = str(found["Status"]), int(found.get("ApproximateNumberOfMessagesMoved", 0))
            last[0] = f"{status}, {moved} moved"
            tell(moved)
            if status == "COMPLETED":
                return moved
            if status != "RUNNING":
                reason = str(found.get("FailureReason") or "no reason given")
                raise AwsError(f"SQS ended the move of {queue_name(source)} as {status}: {reason}")
            return None

        return poll(
            probe, awaited=f"the move of {queue_name(source)}", timeout_seconds=MOVE_SECONDS,
            pace=_MOVE_PACE, state=lambda: last[0], clock=self._clock,
        )  # fmt: skip

    def redrive_ourselves(self, source: str, target: str, tell: Callable[[int], None]) -> int:
        """Move what a dead-letter queue holds at this moment, where there is no service for it: the emulator.

        Arguments and result are those of `redrive`.
        """
        sqs, moved = self._aws.client("sqs"), 0
        # What comes back meanwhile is for the next time: it would go round in circles.
        limit = QueueDepth(self._aws).depth(source).waiting
        with aws_errors(f"move the messages of {queue_name(source)}"):
            while moved < limit:
                answer = sqs.receive_message(
                    QueueUrl=source, MaxNumberOfMessages=min(_BATCH, limit - moved), WaitTimeSeconds=1,
                    VisibilityTimeout=_VISIBILITY_SECONDS, MessageAttributeNames=["All"],
                    MessageSystemAttributeNames=["AWSTraceHeader"],
                )  # fmt: skip
                received = answer.get("Messages", [])
                if not received:
                    break
                for message in received:
                    sqs.send_message(QueueUrl=target, MessageBody=message["Body"], **_attributes(message))
                    sqs.delete_message(QueueUrl=source, ReceiptHandle=message["ReceiptHandle"])
                    moved += 1
                tell(moved)
        return moved

    def purge(self, url: str) -> None:
        """Delete all messages of a queue, those that agents hold included; SQS takes up to a minute.

        Raises:
            AwsError: SQS refuses, as it does within a minute of the last time.
        """
        with aws_errors(f"purge {queue_name(url)}"):
            self._aws.client("sqs").purge_queue(QueueUrl=url)

    def _arn(self, url: str) -> str:
        with aws_errors(f"look at {queue_name(url)}"):
            found = self._aws.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return str(found["Attributes"]["QueueArn"])


def _attributes(message: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes to send a received message on with."""
    given: dict[str, Any] = {}
    if message.get("MessageAttributes"):
        given["MessageAttributes"] = message["MessageAttributes"]
    trace = message.get("Attributes", {}).get("AWSTraceHeader")
    if trace:
        header = {"DataType": "String", "StringValue": trace}
        given["MessageSystemAttributes"] = {"AWSTraceHeader": header}
    return given
