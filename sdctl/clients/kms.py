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


@dataclass(frozen=True, slots=True)
class DescribedKey:
    """A key without its policy, which takes a permission of its own to read."""

    arn: str
    state: str
    spec: str

    @property
    def can_encrypt_volumes(self) -> bool:
        """Whether EBS takes it.

        https://docs.aws.amazon.com/ebs/latest/userguide/how-ebs-encryption-works.html
        """
        return self.state == "Enabled" and self.spec == "SYMMETRIC_DEFAULT"


class Kms:
    """The calls that we make, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    def described(self, name: str) -> DescribedKey | None:
        """Look at a key by its ARN, id or alias, or return None where there is none."""
        try:
            with aws_errors(f"look at the key {name}"):
                found = self._aws.client("kms").describe_key(KeyId=name)["KeyMetadata"]
        except NotFoundError:
            return None
        return DescribedKey(found["Arn"], found["KeyState"], found["KeySpec"])

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
