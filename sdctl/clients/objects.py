"""The objects of one bucket: whole and in parts, with checksums that S3 checks itself.

A part or a small object goes out from memory in one piece. Retries are botocore's own.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import AwsError, ConflictError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from sdctl.clients.quick_puts import QuickPuts

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAX_PARTS: Final = 10_000
MAX_COPY_BYTES: Final = 5 * 1024**3
COPY_PART_BYTES: Final = 512 * 1024**2
FULL_OBJECT: Final = "FULL_OBJECT"
# A conditional write that lost says one of these.
_LOST: Final = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing tells it; `modified_at` is ISO 8601."""

    key: str
    size_bytes: int
    etag: str
    modified_at: str


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as a look at it tells it.

    `crc32` is S3's own checksum in base64, empty where the server keeps none; of an object in parts it may
    be a checksum of checksums, which ends in a hyphen and their number.
    """

    key: str
    size_bytes: int
    etag: str
    modified_at: str
    crc32: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an upload, as S3 confirmed it."""

    number: int
    size_bytes: int
    etag: str
    crc32: int


class LostRaceError(ConflictError):
    """The object was changed by someone else meanwhile."""


class Objects:
    """The calls that the models commands make on one bucket; safe to share between threads."""

    def __init__(self, aws: Aws, bucket: str) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws
        self.bucket = bucket
        self._quick: QuickPuts | None = None

    @property
    def _client(self) -> Any:
        return self._aws.client("s3")

    def listed(self) -> Iterator[Listed]:
        """Yield every object.

        Raises:
            NotFoundError: there is no such bucket.
        """
        with aws_errors(f"list the bucket {self.bucket}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
                for item in page.get("Contents", ()):
                    modified_at = item["LastModified"].isoformat(timespec="seconds")
                    yield Listed(item["Key"], item["Size"], item["ETag"].strip('"'), modified_at)

    def look(self, key: str) -> Stored | None:
        """Return what S3 tells of an object, or None where there is none."""
        try:
            with aws_errors(f"look at {key} in the bucket {self.bucket}"):
                found = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        except NotFoundError:
            return None
        return Stored(
            key, int(found["ContentLength"]), str(found["ETag"]).strip('"'),
            found["LastModified"].isoformat(timespec="seconds"), str(found.get("ChecksumCRC32", "")),
            dict(found["Metadata"]),
        )  # fmt: skip

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Read an object, or a range of it."""
        wanted = {} if length is None else {"Range": f"bytes={start}-{start + length - 1}"}
        with aws_errors(f"read {key} in the bucket {self.bucket}"):
            answer = self._client.get_object(Bucket=self.bucket, Key=key, **wanted)
            body: bytes = answer["Body"].read() if length is None else answer["Body"].read(length)
        return body

    def read_document(self, key: str, limit_bytes: int) -> tuple[bytes, str] | None:
        """Read a small object with its ETag, for a conditional write; None where there is none."""
        try:
            with aws_errors(f"read {key} in the bucket {self.bucket}"):
                answer = self._client.get_object(Bucket=self.bucket, Key=key)
                body = answer["Body"].read(limit_bytes + 1)
        except NotFoundError:
            return None
        if len(body) > limit_bytes:
            raise AwsError(f"{key} in the bucket {self.bucket} is larger than {limit_bytes} bytes")
        return body, str(answer["ETag"])

    def write_document(self, key: str, body: bytes, etag: str | None) -> None:
        """Write a small object in place of the one with this ETag; None: there must be none.

        Raises:
            LostRaceError: it is another one by now.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            with aws_errors(f"store {key} in the bucket {self.bucket}"):
                self._client.put_object(
                    Bucket=self.bucket, Key=key, Body=body, ContentType="application/json", **condition
                )
        except NotFoundError as error:
            raise LostRaceError(f"{key} was deleted meanwhile") from error
        except AwsError as error:
            if error.aws_code in _LOST:
                raise LostRaceError(f"{key} was changed meanwhile") from error
            raise

    def hurry(self) -> None:
        """Prepare for many small files; without it, or where it is not possible, they take longer."""
        from sdctl.clients.quick_puts import quick_puts

        self._quick = quick_puts(self._aws, self.bucket)

    def put_file(
        self, key: str, path: Path, size_bytes: int, crc32: int, metadata: Mapping[str, str]
    ) -> str | None:
        """Store a file, where `hurry` has prepared for it; return its ETag, or None: `put` it, then."""
        if self._quick is None:
            return None
        return self._quick.put(key, path, size_bytes, encoded(crc32), metadata)

    def put(self, key: str, body: bytes, crc32: int, metadata: Mapping[str, str]) -> str:
        """Store an object from memory; return its ETag."""
        with aws_errors(f"store {key} in the bucket {self.bucket}"):
            answer = self._client.put_object(
                Bucket=self.bucket, Key=key, Body=body, ChecksumCRC32=encoded(crc32), Metadata=dict(metadata)
            )
        return str(answer["ETag"]).strip('"')

    def start(self, key: str, metadata: Mapping[str, str]) -> tuple[str, bool]:
        """Begin an upload in parts; return its id, and whether the server keeps a full-object checksum."""
        with aws_errors(f"begin the upload of {key} to the bucket {self.bucket}"):
            answer = self._client.create_multipart_upload(
                Bucket=self.bucket, Key=key, Metadata=dict(metadata),
                ChecksumAlgorithm="CRC32", ChecksumType=FULL_OBJECT,
            )  # fmt: skip
        return str(answer["UploadId"]), answer.get("ChecksumType") == FULL_OBJECT

    def put_part(self, key: str, upload_id: str, number: int, body: bytes, crc32: int) -> Part:
        """Send one part, counted from 1; S3 refuses it where `crc32` is not its own."""
        with aws_errors(f"store part {number} of {key} in the bucket {self.bucket}"):
            answer = self._client.upload_part(
                Bucket=self.bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body,
                ChecksumCRC32=encoded(crc32),
            )  # fmt: skip
        return Part(number, len(body), str(answer["ETag"]), crc32)

    def parts(self, key: str, upload_id: str) -> dict[int, tuple[int, str]] | None:
        """Return size and ETag of each part that an unfinished upload has; None where it is gone."""
        found: dict[int, tuple[int, str]] = {}
        try:
            with aws_errors(f"look at the unfinished upload of {key}"):
                pages = self._client.get_paginator("list_parts")
                for page in pages.paginate(Bucket=self.bucket, Key=key, UploadId=upload_id):
                    found |= {one["PartNumber"]: (one["Size"], one["ETag"]) for one in page.get("Parts", ())}
        except AwsError as error:
            if error.aws_code == "NoSuchUpload":
                return None
            raise
        return found

    def finish(self, key: str, upload_id: str, parts: Sequence[Part], full_crc32: int | None) -> str:
        """Make an object of its parts; S3 refuses where `full_crc32` is not its checksum. Return its ETag."""
        listed = [
            {"PartNumber": one.number, "ETag": one.etag, "ChecksumCRC32": encoded(one.crc32)} for one in parts
        ]
        whole = (
            {} if full_crc32 is None else {"ChecksumCRC32": encoded(full_crc32), "ChecksumType": FULL_OBJECT}
        )
        with aws_errors(f"finish the upload of {key} to the bucket {self.bucket}"):
            answer = self._client.complete_multipart_upload(
                Bucket=self.bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": listed}, **whole
            )
        return str(answer["ETag"]).strip('"')

    def abort(self, key: str, upload_id: str) -> None:
        """Drop an unfinished upload and its parts; one that is gone is dropped already."""
        try:
            with aws_errors(f"drop the unfinished upload of {key}"):
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)
        except AwsError as error:
            if error.aws_code != "NoSuchUpload":
                raise

    def copy(self, source: str, key: str, size_bytes: int, metadata: Mapping[str, str]) -> str:
        """Copy an object inside the bucket, under new metadata, on the server's side; return the ETag."""
        origin = {"Bucket": self.bucket, "Key": source}
        with aws_errors(f"copy {source} to {key} in the bucket {self.bucket}"):
            if size_bytes <= MAX_COPY_BYTES:
                answer = self._client.copy_object(
                    Bucket=self.bucket, Key=key, CopySource=origin, Metadata=dict(metadata),
                    MetadataDirective="REPLACE", ChecksumAlgorithm="CRC32",
                )  # fmt: skip
                return str(answer["CopyObjectResult"]["ETag"]).strip('"')
        upload_id, _ = self.start(key, metadata)
        try:
            return self._copy_parts(origin, key, upload_id, size_bytes)
        except BaseException:
            self.abort(key, upload_id)
            raise

    def _copy_parts(self, origin: Mapping[str, str], key: str, upload_id: str, size_bytes: int) -> str:
        from concurrent.futures import ThreadPoolExecutor

        def copy_part(number: int) -> dict[str, Any]:
            first = (number - 1) * COPY_PART_BYTES
            last = min(first + COPY_PART_BYTES, size_bytes) - 1
            answer = self._client.upload_part_copy(
                Bucket=self.bucket, Key=key, UploadId=upload_id, PartNumber=number, CopySource=dict(origin),
                CopySourceRange=f"bytes={first}-{last}",
            )["CopyPartResult"]  # fmt: skip
            checksum = {"ChecksumCRC32": answer["ChecksumCRC32"]} if "ChecksumCRC32" in answer else {}
            return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

        numbers = range(1, -(-size_bytes // COPY_PART_BYTES) + 1)
        with aws_errors(f"copy {origin['Key']} to {key} in the bucket {self.bucket}"):
            with ThreadPoolExecutor(8) as pool:
                parts = list(pool.map(copy_part, numbers))
            answer = self._client.complete_multipart_upload(
                Bucket=self.bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        return str(answer["ETag"]).strip('"')

    def delete(self, key: str) -> None:
        """Delete an object; a missing one is deleted already."""
        with aws_errors(f"delete {key} from the bucket {self.bucket}"):
            self._client.delete_object(Bucket=self.bucket, Key=key)


def encoded(crc32: int) -> str:
    """Write a CRC-32 as S3 does: its four bytes, highest first, in base64."""
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def composite(parts: Sequence[Part]) -> str:
    """Return the checksum of checksums that S3 gives an object in parts where it keeps no full one."""
    digests = b"".join(one.crc32.to_bytes(4, "big") for one in sorted(parts, key=lambda one: one.number))
    return f"{encoded(zlib.crc32(digests))}-{len(parts)}"
