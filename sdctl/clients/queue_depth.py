"""How much waits in queues: SQS's counts, and the age of the oldest message from CloudWatch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors

# SQS sends its metrics once a minute:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
_WINDOW: Final = timedelta(minutes=10)
_PERIOD_SECONDS: Final = 60
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Depth:
    """A queue's messages: waiting, and held by an agent."""

    waiting: int
    running: int


def queue_name(url: str) -> str:
    """Return the name of a queue by its URL."""
    return url.rpartition("/")[2]


class QueueDepth:
    """The reads that a look at a deployment makes, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; clients are made on first use."""
        self._aws = aws

    def depth(self, url: str) -> Depth:
        """Count a queue's messages; SQS's counts are approximate."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        with aws_errors(f"count the messages of {queue_name(url)}"):
            found = self._aws.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)
        counts = found["Attributes"]
        return Depth(int(counts[names[0]]), int(counts[names[1]]))

    def oldest_seconds(self, names: Mapping[str, str], now: datetime | None = None) -> dict[str, float]:
        """Return the age of the oldest message by key, where CloudWatch has been told it lately.

        Args:
            names: of queues, by any key.
            now: the time of day.
        """
        end, keys = now or datetime.now(UTC), list(names)
        ages: dict[str, float] = {}
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            queries = [_query(number, names[key]) for number, key in enumerate(batch)]
            with aws_errors("read the ages of the oldest messages"):
                pages = self._aws.client("cloudwatch").get_paginator("get_metric_data").paginate(
                    MetricDataQueries=queries, StartTime=end - _WINDOW, EndTime=end,
                    ScanBy="TimestampDescending",
                )  # fmt: skip
                for page in pages:
                    for found in page["MetricDataResults"]:
                        if found["Values"]:
                            key = batch[int(found["Id"].removeprefix("q"))]
                            ages.setdefault(key, float(found["Values"][0]))
        return ages


def _query(number: int, name: str) -> dict[str, Any]:
    metric = {
        "Namespace": "AWS/SQS", "MetricName": "ApproximateAgeOfOldestMessage",
        "Dimensions": [{"Name": "QueueName", "Value": name}],
    }  # fmt: skip
    stat = {"Metric": metric, "Period": _PERIOD_SECONDS, "Stat": "Maximum"}
    return {"Id": f"q{number}", "MetricStat": stat, "ReturnData": True}
