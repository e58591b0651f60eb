"""The limits of an account, and what counts against the ones that no other client reads.

Codes and names of quotas: https://docs.aws.amazon.com/general/latest/gr/aws-service-information.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import AwsError

# Where a quota was never changed in the account, only its default can be asked.
_UNCHANGED: Final = "NoSuchResourceException"


@dataclass(frozen=True, slots=True)
class Quota:
    """One quota: whose it is, its code, and what it limits in words."""

    service: str
    code: str
    title: str


class Quotas:
    """Reads quotas, and counts what has no client of its own here."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; clients are made on first use."""
        self._aws = aws

    def value(self, quota: Quota) -> float:
        """Return a quota's value in this account and region, or its default where it was never changed.

        Raises:
            AwsError: it cannot be read, or there is no such quota in this region.
        """
        client, action = self._aws.client("service-quotas"), f'read the quota "{quota.title}"'
        key = {"ServiceCode": quota.service, "QuotaCode": quota.code}
        try:
            with aws_errors(action):
                return float(client.get_service_quota(**key)["Quota"]["Value"])
        except AwsError as error:
            if error.aws_code != _UNCHANGED:
                raise
        with aws_errors(action):
            return float(client.get_aws_default_service_quota(**key)["Quota"]["Value"])

    def concurrent_executions(self) -> int:
        """Return how many Lambda functions may run at once in this account and region."""
        with aws_errors("read the limits of Lambda"):
            answer: dict[str, Any] = self._aws.client("lambda").get_account_settings()
        return int(answer["AccountLimit"]["ConcurrentExecutions"])

    def bucket_count(self) -> int:
        """Count the account's buckets, of all regions."""
        with aws_errors("list the buckets"):
            pages = self._aws.client("s3").get_paginator("list_buckets").paginate()
            return sum(len(page.get("Buckets", ())) for page in pages)
