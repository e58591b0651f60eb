"""Repositories of a private ECR registry: made where they are missing, with what each of ours has.

Scanned on push, encrypted, emptied of what no tag means, and with tags that stay what they are.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import ConflictError, NotFoundError

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


def own_registry(aws: Aws) -> str:
    """Return the host of the account's registry in the session's region."""
    suffix = "amazonaws.com.cn" if aws.region.startswith("cn-") else "amazonaws.com"
    return f"{aws.account_id()}.dkr.ecr.{aws.region}.{suffix}"


class Ecr:
    """The repositories of one registry of ECR."""

    def __init__(self, aws: Aws, host: str) -> None:
        """Use the session's credentials in the registry's own region; `host` is one of ECR."""
        self._account, _, _, region = host.split(".")[:4]
        self._aws = aws if aws.region == region else Aws(replace(aws.access, region=region))

    def has_image(self, repository: str, tag: str) -> bool:
        """Tell whether a repository has an image of this tag; one that is not there has none."""
        wanted = [{"imageTag": tag}]
        try:
            with aws_errors(f"look for {repository}:{tag}"):
                self._aws.client("ecr").describe_images(
                    registryId=self._account, repositoryName=repository, imageIds=wanted
                )
        except NotFoundError:
            return False
        return True

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
                    registryId=self._account,
                    repositoryName=name,
                    imageTagMutability="MUTABLE" if is_mutable else "IMMUTABLE",
                    imageScanningConfiguration={"scanOnPush": True},
                    encryptionConfiguration=encryption,
                    tags=[{"Key": "sdctl", "Value": "images"}],
                )
        except ConflictError:
            return False
        with aws_errors(f"set what the repository {name} forgets"):
            client.put_lifecycle_policy(
                registryId=self._account, repositoryName=name, lifecyclePolicyText=json.dumps(_LIFECYCLE)
            )
        return True
