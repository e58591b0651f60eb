"""SSM: the parameters by which AWS names its images, and those by which runtimes are found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sdctl.clients.aws import Aws, aws_errors

# https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html
_BATCH: Final = 10


class Ssm:
    """The calls that we make, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    def parameters(self, names: Sequence[str]) -> dict[str, str]:
        """Return the values of parameters; those that do not exist are left out."""
        found: dict[str, str] = {}
        for start in range(0, len(names), _BATCH):
            with aws_errors("read the parameters of images"):
                answer = self._aws.client("ssm").get_parameters(Names=list(names[start : start + _BATCH]))
            found |= {one["Name"]: one["Value"] for one in answer["Parameters"]}
        return found

    def below(self, path: str) -> dict[str, str]:
        """Return the values of all parameters below a path, by their full names."""
        with aws_errors(f"read the parameters below {path}"):
            pages = self._aws.client("ssm").get_paginator("get_parameters_by_path").paginate(Path=path)
            return {one["Name"]: one["Value"] for page in pages for one in page["Parameters"]}
