"""Repositories of a private ECR registry: made where they are missing, with what each of ours has.

Scanned on push, encrypted, emptied of what no tag means, and with tags that stay what they are.
"""

from __future__ import annotations

import json
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import ConflictError

# What an upload left without a tag; pieces of a tagged index have none either, and are kept by ECR.
# https://docs.aws.amazon.com/AmazonECR/latest/userguide/LifecyclePolicies.html
UNTAGGED_DAYS: Final = 14
_LIFECYCLE: Final = {
    "rules": [{
        "rulePriority": 1,
        "description": "What no tag means any more",
        "selection": {
            "tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days",
            "countNumber": UNTAGGED_DAYS,
        },
        "action": {"type": "expire"},
    }]
}  # fmt: skip


class Ecr:
    """The repositories of the session's account and region."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    @property
    def host(self) -> str:
        """The account's registry."""
        suffix = "amazonaws.com.cn" if self._aws.region.startswith("cn-") else "amazonaws.com"
        return f"{self._aws.account_id()}.dkr.ecr.{self._aws.region}.{suffix}"

    def ensure(self, name: str, *, is_mutable: bool = False, kms_key_arn: str = "") -> bool:
        """Make a repository where there is none; one that is there stays as it is.

        Args:
            name: with its path.
            is_mutable: its tags may change: for images that have no versions.
            kms_key_arn: a key of the user's own, else AES-256 by ECR.

        Returns:
            Whether it was made.

        Raises:
            AwsError: ECR refuses.
        """
        encryption: dict[str, Any] = {"encryptionType": "AES256"}
        if kms_key_arn:
            encryption = {"encryptionType": "KMS", "kmsKey": kms_key_arn}
        client = self._aws.client("ecr")
        try:
            with aws_errors(f"create the repository {name}"):
                client.create_repository(
                    repositoryName=name,
                    imageTagMutability="MUTABLE" if is_mutable else "IMMUTABLE",
                    imageScanningConfiguration={"scanOnPush": True},
                    encryptionConfiguration=encryption,
                    tags=[{"Key": "sdctl", "Value": "images"}],
                )
        except ConflictError:
            return False
        with aws_errors(f"set what the repository {name} forgets"):
            client.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=json.dumps(_LIFECYCLE))
        return True
