"""CloudWatch Logs: which log groups exist."""

from __future__ import annotations

from sdctl.clients.aws import Aws, aws_errors


class Logs:
    """The calls that we make, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    def group_exists(self, name: str) -> bool:
        """Tell whether a log group of exactly this name exists."""
        with aws_errors(f"look for the log group {name}"):
            pages = self._aws.client("logs").get_paginator("describe_log_groups")
            return any(
                group["logGroupName"] == name
                for page in pages.paginate(logGroupNamePrefix=name)
                for group in page["logGroups"]
            )
