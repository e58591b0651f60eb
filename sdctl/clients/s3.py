"""S3: the buckets that sdctl keeps beside its stacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import AwsError, ConflictError, NotFoundError


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's content and ETag, and how long ago it was stored, by S3's own clock."""

    body: bytes = field(repr=False)
    etag: str
    age_seconds: float


class S3:
    """The calls that a deploy makes, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    @property
    def _client(self) -> Any:
        return self._aws.client("s3")

    def bucket_region(self, name: str, *, owner: str = "") -> str | None:
        """Return the region of a bucket that we may use, or None where there is none of that name.

        Args:
            name: of the bucket.
            owner: the account that it must belong to, where the name is one that we pick: who guesses it may
                have made a bucket of it, open to everyone, and wait for what is stored there.
                https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html

        Raises:
            AwsError: it is someone else's.
        """
        condition = {"ExpectedBucketOwner": owner} if owner else {}
        try:
            with aws_errors(f"look for the bucket {name}"):
                answer = self._client.head_bucket(Bucket=name, **condition)
        except NotFoundError:
            return None
        except AwsError as error:
            if error.aws_code == "301":
                return self._region_elsewhere(error)
            if error.aws_code == "403":
                raise AwsError(
                    f"the bucket {name} belongs to someone else, or is not open to you",
                    operation="HeadBucket", aws_code="403",
                ) from error  # fmt: skip
            raise
        return str(answer.get("BucketRegion") or self._aws.region)

    def _region_elsewhere(self, error: AwsError) -> str:
        response: dict[str, Any] = getattr(error.__cause__, "response", {})
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(headers.get("x-amz-bucket-region", "another region"))

    def tags(self, bucket: str) -> dict[str, str]:
        """Return the tags of a bucket."""
        try:
            with aws_errors(f"read the tags of the bucket {bucket}"):
                found = self._client.get_bucket_tagging(Bucket=bucket)["TagSet"]
        except AwsError as error:
            if error.aws_code == "NoSuchTagSet":
                return {}
            raise
        return {tag["Key"]: tag["Value"] for tag in found}

    def keys(self, bucket: str, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a prefix."""
        with aws_errors(f"list the bucket {bucket}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    yield item["Key"]

    def has_objects(self, bucket: str) -> bool:
        """Tell whether a bucket holds anything."""
        with aws_errors(f"list the bucket {bucket}"):
            return bool(self._client.list_objects_v2(Bucket=bucket, MaxKeys=1).get("KeyCount"))

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Store an object."""
        with aws_errors(f"store {key} in the bucket {bucket}"):
            self._client.put_object(Bucket=bucket, Key=key, Body=body)

    def put_if(self, bucket: str, key: str, body: bytes, *, matching: str | None) -> str:
        """Store an object if what is there has this ETag, or, with None, if nothing is; return the new ETag.

        Raises:
            ConflictError: something else is there.
            NotFoundError: nothing is there any more.
        """
        condition = {"IfNoneMatch": "*"} if matching is None else {"IfMatch": matching}
        try:
            with aws_errors(f"store {key} in the bucket {bucket}"):
                answer = self._client.put_object(Bucket=bucket, Key=key, Body=body, **condition)
        except AwsError as error:
            if error.aws_code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                raise ConflictError(error.message) from error
            raise
        return str(answer["ETag"])

    def get(self, bucket: str, key: str) -> StoredObject | None:
        """Read an object, or return None where there is none."""
        try:
            with aws_errors(f"read {key} from the bucket {bucket}"):
                answer = self._client.get_object(Bucket=bucket, Key=key)
                body = answer["Body"].read()
        except NotFoundError:
            return None
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return StoredObject(body, str(answer["ETag"]), (now - answer["LastModified"]).total_seconds())

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object; a missing one is deleted already."""
        with aws_errors(f"delete {key} from the bucket {bucket}"):
            self._client.delete_object(Bucket=bucket, Key=key)

    def url(self, bucket: str, key: str) -> str:
        """Return the URL that CloudFormation reads an object from."""
        endpoint = str(self._client.meta.endpoint_url)
        suffix = "amazonaws.com.cn" if self._aws.partition == "aws-cn" else "amazonaws.com"
        if endpoint.endswith(suffix):
            return f"https://{bucket}.s3.{self._aws.region}.{suffix}/{key}"
        return f"{endpoint}/{bucket}/{key}"  # an emulator

    def empty(self, bucket: str) -> int:
        """Delete every object and version of a bucket; return how many. A missing bucket is empty."""
        count = 0
        try:
            with aws_errors(f"empty the bucket {bucket}"):
                for page in self._client.get_paginator("list_object_versions").paginate(Bucket=bucket):
                    entries = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
                    doomed = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in entries]
                    count += self._delete(bucket, doomed)
        except NotFoundError:
            return count
        return count

    def _delete(self, bucket: str, doomed: list[dict[str, str]]) -> int:
        if not doomed:
            return 0
        answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": doomed, "Quiet": True})
        if answer.get("Errors"):
            first = answer["Errors"][0]
            raise AwsError(
                f"could not delete {first.get('Key')} from the bucket {bucket}: {first.get('Message')}",
                operation="DeleteObjects", aws_code=str(first.get("Code", "")),
            )  # fmt: skip
        return len(doomed)

    def delete_bucket(self, bucket: str) -> None:
        """Delete an empty bucket; a missing one is deleted already."""
        try:
            with aws_errors(f"delete the bucket {bucket}"):
                self._client.delete_bucket(Bucket=bucket)
        except NotFoundError:
            return
