"""Model buckets: made safe, brought to the same safety where they are there already, and listed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors, error_code
from sdctl.clients.s3 import S3
from sdctl.errors import AwsError, ConfigError, ConflictError

UNFINISHED_UPLOAD_DAYS: Final = 7
_TOGETHER: Final = 16
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]*[a-z0-9]")
_ADDRESS: Final = re.compile(r"\d+\.\d+\.\d+\.\d+")
_RESERVED_STARTS: Final = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_ENDS: Final = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
_RULE_ID: Final = "abort-unfinished-uploads"
# What S3 says where a bucket has no setting of that kind.
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_ABSENT: Final = frozenset({
    "NoSuchPublicAccessBlockConfiguration", "ServerSideEncryptionConfigurationNotFoundError",
    "NoSuchBucketPolicy", "NoSuchLifecycleConfiguration", "NoSuchTagSet",
})  # fmt: skip
_PUBLIC_ACCESS: Final = dict.fromkeys(
    ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True
)


@dataclass(frozen=True, slots=True)
class BucketView:
    """One bucket; `tags` is empty where they may not be read."""

    name: str
    region: str
    created_at: str
    tags: Mapping[str, str] = field(default_factory=dict)


class Buckets:
    """The calls that the bucket commands make, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    @property
    def _client(self) -> Any:
        return self._aws.client("s3")

    def ensure(self, name: str, tags: Mapping[str, str]) -> tuple[bool, list[str]]:
        """Make a bucket in the session's region, or add what an own one lacks; nothing set is ever changed.

        The tags come last: a bucket that has them has everything.

        Args:
            name: of the bucket.
            tags: added to those that it has.

        Returns:
            Whether it was made now, and which settings were put.

        Raises:
            ConfigError: the name is not allowed, or the bucket is in another region.
            ConflictError: it belongs to someone else.
            AwsError: S3 refuses for another reason.
        """
        problem = name_problem(name)
        if problem:
            raise _bad_name(name, problem)
        region = self._region_of(name)
        if region is None:
            self._create(name)
        elif region != self._aws.region:
            raise ConfigError(
                f"the bucket {name} is in {region}, the deployment in {self._aws.region}",
                hint="models are read over and over: use a bucket of the same region, with another name",
            )
        return region is None, self._add_missing(name, tags)

    def _region_of(self, name: str) -> str | None:
        try:
            return S3(self._aws).bucket_region(name, owner=self._aws.account_id())
        except AwsError as error:
            if error.aws_code == "403":
                raise ConflictError(
                    f"the bucket {name} belongs to someone else, or your permissions do not show it to you",
                    hint="choose another name: bucket names are unique in the world",
                ) from error
            raise

    def _create(self, name: str) -> None:
        region = self._aws.region
        # us-east-1 is the one region that must not be named.
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            with aws_errors(f"create the bucket {name}"):
                self._client.create_bucket(Bucket=name, **place)
        except ConflictError as error:
            code = error_code(error.__cause__) if isinstance(error.__cause__, Exception) else ""
            if code == "BucketAlreadyExists":
                raise ConflictError(
                    f"the bucket {name} belongs to someone else",
                    hint="choose another name: bucket names are unique in the world",
                ) from error
            if code != "BucketAlreadyOwnedByYou":
                raise
        except AwsError as error:
            if error.aws_code == "InvalidBucketName":
                raise _bad_name(name, "S3 does not say why") from error
            raise

    def _add_missing(self, name: str, tags: Mapping[str, str]) -> list[str]:
        client, added = self._client, []
        if (
            self._read(client.get_public_access_block, name).get("PublicAccessBlockConfiguration")
            != _PUBLIC_ACCESS
        ):
            with aws_errors(f"block public access to {name}"):
                client.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=_PUBLIC_ACCESS)
            added.append("public access blocked")
        if not self._read(client.get_bucket_encryption, name):
            rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
            with aws_errors(f"encrypt the bucket {name}"):
                client.put_bucket_encryption(
                    Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]}
                )  # fmt: skip
            added.append("encrypted")
        if self._add_tls_only(name):
            added.append("TLS only")
        if self._add_lifecycle(name):
            added.append(f"unfinished uploads aborted after {UNFINISHED_UPLOAD_DAYS} days")
        has = self.tags(name)
        if tags.items() - has.items():
            tag_set = [{"Key": key, "Value": value} for key, value in (has | dict(tags)).items()]
            with aws_errors(f"tag the bucket {name}"):
                client.put_bucket_tagging(Bucket=name, Tagging={"TagSet": tag_set})
            added.append("tagged")
        return added

    def _add_tls_only(self, name: str) -> bool:
        """Deny plain HTTP, beside what the bucket's policy says already."""
        text = self._read(self._client.get_bucket_policy, name).get("Policy")
        document: dict[str, Any] = json.loads(text) if text else {"Version": "2012-10-17", "Statement": []}
        found = document["Statement"]
        statements: list[dict[str, Any]] = [found] if isinstance(found, dict) else list(found)
        if any(_is_tls_only(one) for one in statements):
            return False
        arn = f"arn:{self._aws.partition}:s3:::{name}"
        statements.append({
            "Sid": "TlsOnly", "Effect": "Deny", "Principal": "*", "Action": "s3:*",
            "Resource": [arn, f"{arn}/*"], "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        })  # fmt: skip
        with aws_errors(f"allow only TLS to the bucket {name}"):
            self._client.put_bucket_policy(
                Bucket=name, Policy=json.dumps({**document, "Statement": statements})
            )  # fmt: skip
        return True

    def _add_lifecycle(self, name: str) -> bool:
        rules = self._read(self._client.get_bucket_lifecycle_configuration, name).get("Rules", [])
        if any("AbortIncompleteMultipartUpload" in one and one.get("Status") == "Enabled" for one in rules):
            return False
        rule = {
            "ID": _RULE_ID, "Status": "Enabled", "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UNFINISHED_UPLOAD_DAYS},
        }  # fmt: skip
        with aws_errors(f"set the lifecycle of the bucket {name}"):
            self._client.put_bucket_lifecycle_configuration(
                Bucket=name, LifecycleConfiguration={"Rules": [*rules, rule]}
            )
        return True

    def tags(self, name: str) -> dict[str, str]:
        """Return a bucket's tags."""
        found = self._read(self._client.get_bucket_tagging, name).get("TagSet", [])
        return {one["Key"]: one["Value"] for one in found}

    def all(self) -> list[BucketView]:
        """Return the account's buckets of the session's region, with their tags."""
        with aws_errors("list the buckets"):
            found = self._client.list_buckets()["Buckets"]
        with ThreadPoolExecutor(_TOGETHER) as pool:
            views = list(pool.map(self._view, found))
        return [view for view in views if view is not None]

    def _view(self, listed: Mapping[str, Any]) -> BucketView | None:
        name = listed["Name"]
        region = listed.get("BucketRegion") or self._own_region(name)
        if region != self._aws.region:
            return None
        return BucketView(
            name, region, listed["CreationDate"].isoformat(timespec="seconds"), self._tags_if_allowed(name)
        )

    def size(self, name: str) -> tuple[int, int]:
        """Count a bucket's objects and their bytes."""
        count = total = 0
        with aws_errors(f"list the bucket {name}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=name):
                for item in page.get("Contents", ()):
                    count, total = count + 1, total + item["Size"]
        return count, total

    def _own_region(self, name: str) -> str | None:
        """Ask for a bucket's region, where the list does not tell it; None where it may not be known."""
        try:
            return S3(self._aws).bucket_region(name)
        except AwsError as error:
            if error.aws_code == "403":
                return None
            raise

    def _tags_if_allowed(self, name: str) -> dict[str, str]:
        """Read the tags of a bucket that need not be ours to read."""
        try:
            return self.tags(name)
        except AwsError as error:
            if error.aws_code in ("AccessDenied", "403"):
                return {}
            raise

    def _read(self, call: Callable[..., Any], name: str) -> dict[str, Any]:
        """Return one of a bucket's settings, empty where it has none of that kind."""
        try:
            with aws_errors(f"read the settings of the bucket {name}"):
                answer: dict[str, Any] = call(Bucket=name)
        except AwsError as error:
            if error.aws_code in _ABSENT:
                return {}
            raise
        return {key: value for key, value in answer.items() if key != "ResponseMetadata"}


def name_problem(name: str) -> str:
    """Say which of S3's rules a bucket's name breaks; empty where it is allowed."""
    if not 3 <= len(name) <= 63:
        return f"it has {len(name)} characters, and must have 3 to 63"
    wrong = sorted({char for char in name if not re.fullmatch(r"[a-z0-9.-]", char)})
    if wrong:
        return f"it has {' '.join(map(repr, wrong[:5]))}, not lower-case letters, digits, dots, hyphens alone"
    if not _NAME.fullmatch(name):
        return "it must begin and end with a letter or a digit"
    if ".." in name:
        return "it has two dots side by side"
    if _ADDRESS.fullmatch(name):
        return "it looks like an IP address"
    reserved = [one for one in _RESERVED_STARTS if name.startswith(one)]
    reserved += [one for one in _RESERVED_ENDS if name.endswith(one)]
    return f"AWS keeps names with {reserved[0]} for itself" if reserved else ""


def _is_tls_only(statement: Mapping[str, Any]) -> bool:
    """Tell a statement that denies plain HTTP to everyone and for everything."""
    condition = statement.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport")
    is_whole = statement.get("Action") in ("s3:*", "*") and statement.get("Principal") in ("*", {"AWS": "*"})
    return statement.get("Effect") == "Deny" and is_whole and str(condition).lower() == "false"


def _bad_name(name: str, problem: str) -> ConfigError:
    return ConfigError(
        f"{name[:80]!r} is not allowed as a bucket's name: {problem}",
        hint="3 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends",
    )
