"""The output topic: publishes the result, or the start, of a task."""

from __future__ import annotations

from typing import Any

from sdctl import task_record
from sdctl.task_record import Row
from sdctl_agent.aws import AwsClients


class Notifier:
    """Publishes rows to one SNS topic; the same row always gives the same bytes."""

    def __init__(self, clients: AwsClients, topic_arn: str) -> None:
        self._clients = clients
        self._topic_arn = topic_arn

    def publish(self, row: Row) -> None:
        """Publish one row's state.

        Raises:
            BotoCoreError, ClientError: SNS did not accept it.
        """
        client: Any = self._clients.client("sns")
        client.publish(
            TopicArn=self._topic_arn,
            Message=task_record.result_notification(row),
            MessageAttributes=task_record.notification_attributes(row),
        )
