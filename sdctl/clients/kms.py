"""KMS: a key of the user's own, and who may use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class Key:
    """A key: its state (`Enabled`, …), its kind (`SYMMETRIC_DEFAULT`, …), and its policy's document."""

    state: str
    spec: str
    policy: Mapping[str, Any]


class Kms:
    """The calls that we make, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    def key(self, arn: str) -> Key | None:
        """Read a key and its policy, or return None where there is none."""
        client = self._aws.client("kms")
        try:
            with aws_errors(f"look at the key {arn}"):
                found = client.describe_key(KeyId=arn)["KeyMetadata"]
                # https://docs.aws.amazon.com/kms/latest/APIReference/API_GetKeyPolicy.html: the only name
                policy = client.get_key_policy(KeyId=arn, PolicyName="default")["Policy"]
        except NotFoundError:
            return None
        return Key(found["KeyState"], found["KeySpec"], json.loads(policy))
