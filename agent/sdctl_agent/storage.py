"""The bucket: stores outputs as they stream in, and reads what travelled there instead of in a message.

Never holds more of an output than one part. Types and extensions come from the first bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from sdctl import contract
from sdctl.contract import Task
from sdctl_agent.aws import AWS_FAILURES, AwsClients, error_code
from sdctl_agent.errors import PermanentError
from sdctl_agent.media import SNIFF_BYTES, sniff
from sdctl_agent.runtimes.base import Output

# S3 takes parts of 5 MiB to 5 GiB, 10,000 of them:
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
PART_BYTES = 8 * 1024 * 1024
MAX_PARTS = 10_000
POINTER_PREFIX = f"{contract.RESERVED_PREFIX}/tasks/"

log = logging.getLogger(__name__)

Step = Callable[[str, Callable[[], Any]], Any]
"""Runs one call of a named step, again and again until it succeeds."""


def parts_of(chunks: Iterator[bytes], part_bytes: int = PART_BYTES) -> Iterator[bytes]:
    """Gather chunks into parts of exactly `part_bytes`, but for the last."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= part_bytes:
            yield bytes(memoryview(buffer)[:part_bytes])
            del buffer[:part_bytes]
    if buffer:
        yield bytes(buffer)


class Storage:
    """One bucket."""

    def __init__(self, clients: AwsClients, bucket: str) -> None:
        self._clients = clients
        self.bucket = bucket

    def store_output(self, task_id: str, prefix: str, number: int, output: Output, step: Step) -> str:
        """Store output `number` under the key of its task, and return its `s3://` URL.

        Raises:
            PermanentError: it is empty, or the runtime cannot give it.
            RuntimeDownError, TransientError: as the output's own stream raises.
        """
        with output.open() as chunks:
            parts = parts_of(chunks)
            first = next(parts, b"")
            if not first:
                raise PermanentError(f"output {number} {output.name} is empty", code="output_unreadable")
            media = sniff(first[:SNIFF_BYTES])
            key = contract.image_key(task_id, prefix, number, media.extension)
            second = next(parts, None) if len(first) >= PART_BYTES else None
            if second is None:
                self._put(key, first, media.content_type, step)
            else:
                self._put_parts(key, _chain(first, second, parts), media.content_type, step)
        return f"s3://{self.bucket}/{key}"

    def store_answer(self, task_id: str, prefix: str, answer: Mapping[str, Any], step: Step) -> str:
        """Store the runtime's answer, and return its `s3://` URL."""
        key = contract.answer_key(task_id, prefix)
        body = json.dumps(answer, ensure_ascii=False, separators=(",", ":"), default=str)
        self._put(key, body.encode("utf-8", "replace"), "application/json", step)
        return f"s3://{self.bucket}/{key}"

    def store_content(self, task: Task, step: Step) -> tuple[str, str]:
        """Store a task's content where a retry finds it, and return (bucket, key)."""
        key = contract.pointer_key(task.id, task.content_hash)
        self._put(key, contract.canonical_json(task.content).encode(), "application/json", step)
        return self.bucket, key

    def read_content(self, pointer: tuple[str, str], step: Step) -> dict[str, Any]:
        """Read the content that a message points to.

        Raises:
            PermanentError: it lies elsewhere than it may, is gone, too large, or no JSON object.
        """
        bucket, key = pointer
        if bucket != self.bucket or not key.startswith(POINTER_PREFIX) or ".." in key.split("/"):
            raise PermanentError(f"content_pointer: only s3://{self.bucket}/{POINTER_PREFIX} may be read")
        text: bytes = step("read_content", lambda: self._get(key, contract.MAX_BODY_BYTES + 1))
        if len(text) > contract.MAX_BODY_BYTES:
            raise PermanentError(f"the content is larger than {contract.MAX_BODY_BYTES} bytes")
        try:
            content = contract.decode_json(text)
        except ValueError as error:
            raise PermanentError(f"the stored content is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise PermanentError("the stored content is not an object")
        return content

    def _get(self, key: str, limit_bytes: int) -> bytes:
        try:
            answer = self._s3.get_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error_code(error) == "NoSuchKey":
                raise PermanentError(f"the stored content s3://{self.bucket}/{key} is gone") from None
            raise
        with answer["Body"] as body:
            data: bytes = body.read(limit_bytes)
        return data

    def _put(self, key: str, body: bytes, content_type: str, step: Step) -> None:
        def put() -> None:
            self._s3.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type)

        step("store", put)

    def _put_parts(self, key: str, parts: Iterator[bytes], content_type: str, step: Step) -> None:
        """Upload in parts; what was begun is taken back if it cannot be finished."""
        place = {"Bucket": self.bucket, "Key": key}
        upload_id = step(
            "store", lambda: self._s3.create_multipart_upload(**place, ContentType=content_type)["UploadId"]
        )
        place["UploadId"] = upload_id
        finished = False
        try:
            done: list[dict[str, Any]] = []
            for number, part in enumerate(parts, 1):
                if number > MAX_PARTS:
                    raise PermanentError("an output is larger than S3 takes", code="output_too_large")
                tag = step("store", partial(self._put_part, place, number, part))
                done.append({"PartNumber": number, "ETag": tag})
            step(
                "store",
                lambda: self._s3.complete_multipart_upload(**place, MultipartUpload={"Parts": done}),
            )
            finished = True
        finally:
            if not finished:
                self._take_back(place)

    def _take_back(self, place: Mapping[str, Any]) -> None:
        try:
            self._s3.abort_multipart_upload(**place)
        except AWS_FAILURES as error:
            # The bucket's lifecycle rule removes what stays behind; the task's own outcome counts more.
            log.warning(
                "parts of an upload stay behind: %s", error_code(error), extra={"action": "abort_upload"}
            )

    def _put_part(self, place: Mapping[str, Any], number: int, part: bytes) -> str:
        answer = self._s3.upload_part(**place, PartNumber=number, Body=part)
        return str(answer["ETag"])

    @property
    def _s3(self) -> Any:
        return self._clients.client("s3")


def _chain(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest
