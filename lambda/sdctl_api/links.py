"""Presigned URLs: outputs to read, inputs to upload. Nothing of them ever passes through this function."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

from sdctl import task_record
from sdctl.task_record import Row
from sdctl_lambda.aws import Aws

LINK_SECONDS: Final = 3600


class Links:
    """Signs URLs of the output bucket. The S3 client is made by the first one."""

    def __init__(self, aws: Aws, bucket: str) -> None:
        self._aws = aws
        self._bucket = bucket

    def task_with_links(self, row: Row) -> dict[str, Any]:
        """Return the task object with `image_links` and `output_link`, once the task has ended."""
        document = task_record.task_object(row)
        urls = row.image_url if row.is_ended else ()
        document["image_links"] = [self._read(url) for url in urls]
        document["output_link"] = self._read(row.output_url) if row.is_ended and row.output_url else None
        return document

    def _read(self, url: str) -> str | None:
        """Sign one `s3://` URL; None for another bucket's, which this function may not read."""
        bucket, _, key = url.removeprefix("s3://").partition("/")
        if bucket != self._bucket or not key:
            return None
        return self._sign("get_object", {"Key": key})

    def upload(self, key: str, content_type: str, size_bytes: int, sha256: str = "") -> dict[str, str]:
        """Sign the upload of one object of exactly this type and size; both are part of the signature.

        With a hash (hexadecimal) the upload must carry it as `x-amz-checksum-sha256`, and S3 checks it.
        """
        exact = {"Key": key, "ContentType": content_type, "ContentLength": size_bytes}
        if sha256:
            exact["ChecksumSHA256"] = b64encode(bytes.fromhex(sha256)).decode()
        url = self._sign("put_object", exact)
        return {"upload_url": url, "input_url": f"s3://{self._bucket}/{key}"}

    def _sign(self, operation: str, parameters: dict[str, Any]) -> str:
        url: str = self._aws.client("s3").generate_presigned_url(
            operation, Params={"Bucket": self._bucket, **parameters}, ExpiresIn=LINK_SECONDS
        )
        return url
