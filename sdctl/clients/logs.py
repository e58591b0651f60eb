"""CloudWatch Logs: which log groups exist, and their end."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import NotFoundError


class Logs:
    """The calls that we make, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    def groups(self, prefixes: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the log groups that begin with one of the prefixes."""
        found: list[str] = []
        with aws_errors("list the log groups"):
            pages = self._aws.client("logs").get_paginator("describe_log_groups")
            for prefix in prefixes:
                for page in pages.paginate(logGroupNamePrefix=prefix):
                    found += [str(group["logGroupName"]) for group in page["logGroups"]]
        return tuple(found)

    def delete_group(self, name: str) -> None:
        """Delete a log group with all that is in it; one that is gone is deleted already."""
        with suppress(NotFoundError), aws_errors(f"delete the log group {name}"):
            self._aws.client("logs").delete_log_group(logGroupName=name)
