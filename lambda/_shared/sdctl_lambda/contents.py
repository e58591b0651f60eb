"""Contents of tasks in the output bucket: what neither a message nor a row can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from botocore.exceptions import ClientError

from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl_lambda.aws import Aws, error_code

CONTENT_PREFIX: Final = f"{contract.RESERVED_PREFIX}/tasks/"


class ContentLostError(Exception):
    """A task's content is neither in its row nor in the bucket any more."""


class Contents:
    """The objects below `.sdctl/tasks/` of one bucket. The client is made by the first call."""

    def __init__(self, aws: Aws, bucket: str) -> None:
        self._aws = aws
        self._bucket = bucket

    def keep(self, task: Task) -> Task:
        """Store a task's content and return the task with the pointer to it."""
        key = contract.pointer_key(task.id, task.content_hash)
        self._aws.client("s3").put_object(
            Bucket=self._bucket,
            Key=key,
            Body=contract.canonical_json(task.content).encode(),
            ContentType="application/json",
        )
        return replace(task, pointer=(self._bucket, key))

    def renew(self, row: task_record.Row) -> None:
        """Let a row's stored content live as long as a row that starts again now.

        The bucket's lifecycle counts from an object's last write, so it is copied onto itself.

        Raises:
            ContentLostError: it is gone, or was never ours: a direct publish may point anywhere.
        """
        if row.body_bucket != self._bucket or not row.body_key.startswith(CONTENT_PREFIX):
            raise ContentLostError(row.id)
        place = {"Bucket": row.body_bucket, "Key": row.body_key}
        try:
            self._aws.client("s3").copy_object(
                **place, CopySource=place, MetadataDirective="REPLACE", ContentType="application/json"
            )
        except ClientError as error:
            if error_code(error) in ("NoSuchKey", "404"):
                raise ContentLostError(row.id) from error
            raise
