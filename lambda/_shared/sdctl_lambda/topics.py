"""The two topics: tasks go into the input topic, results into the output topic."""

from __future__ import annotations

from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl.task_record import Row
from sdctl_lambda.aws import AWS_ERRORS, Aws, error_code


class QueueUnavailableError(Exception):
    """SNS did not accept a message; `code` is its own error code."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


def needs_pointer(task: Task) -> bool:
    """Tell whether a task's content must travel through S3 because the message would be too large."""
    size = contract.message_bytes(contract.message_body(task), task.route)
    return size > contract.MAX_INLINE_MESSAGE_BYTES


class Topics:
    """Publishes to the two topics of a deployment."""

    def __init__(self, aws: Aws, *, input_arn: str, output_arn: str) -> None:
        self._aws = aws
        self._input_arn = input_arn
        self._output_arn = output_arn

    def publish_task(self, task: Task, *, inline: bool) -> None:
        """Send a task to its runtime's queue; with `inline` false the message carries its pointer only.

        Raises:
            QueueUnavailableError: SNS did not accept the message.
        """
        name, value = task.route
        self._publish(
            self._input_arn,
            contract.message_body(task, inline=inline),
            {name: {"DataType": "String", "StringValue": value}},
        )

    def publish_result(self, row: Row) -> None:
        """Tell the output topic of an end state.

        Raises:
            QueueUnavailableError: SNS did not accept the message.
        """
        self._publish(
            self._output_arn, task_record.result_notification(row), task_record.notification_attributes(row)
        )

    def _publish(self, arn: str, message: str, attributes: dict[str, dict[str, str]]) -> None:
        try:
            self._aws.client("sns").publish(TopicArn=arn, Message=message, MessageAttributes=attributes)
        except AWS_ERRORS as error:
            raise QueueUnavailableError(error_code(error)) from error
