"""The task table: reads by key, and the conditional writes that `task_record` builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from sdctl import task_record
from sdctl.task_record import Call, Row
from sdctl_lambda.aws import Aws, error_code


class ConditionFailedError(Exception):
    """A conditional write changed nothing; `row` is what is there, None where nothing is."""

    def __init__(self, row: Row | None) -> None:
        self.row = row
        super().__init__(row.status if row else "no row")


class Table:
    """One task table."""

    def __init__(self, aws: Aws, name: str) -> None:
        self._aws = aws
        self._name = name

    @property
    def _client(self) -> Any:
        return self._aws.client("dynamodb")

    def get(self, task_id: str) -> Row | None:
        """Read a task as it is now."""
        answer = self._client.get_item(
            TableName=self._name, Key=task_record.key_of(task_id), ConsistentRead=True
        )
        item = answer.get("Item")
        return task_record.row_from_item(item) if item else None

    def put(self, call: Call) -> None:
        """Write a new row.

        Raises:
            ConditionFailedError: the id is taken.
        """
        self._conditional(self._client.put_item, call)

    def update(self, call: Call) -> Row:
        """Change a row and return it as it is then.

        Raises:
            ConditionFailedError: the row is not in the state that the change starts from.
        """
        return task_record.row_from_item(self._conditional(self._client.update_item, call)["Attributes"])

    def _conditional(self, operation: Callable[..., dict[str, Any]], call: Call) -> dict[str, Any]:
        try:
            return operation(TableName=self._name, **call)
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            item: Any = error.response.get("Item")
            raise ConditionFailedError(task_record.row_from_item(item) if item else None) from error

    def query(self, call: Call) -> Mapping[str, Any]:
        """Read one page of an index; `call` holds the arguments of Query without the table's name."""
        page: Mapping[str, Any] = self._client.query(TableName=self._name, **call)
        return page

    def scan(self, call: Call) -> Mapping[str, Any]:
        """Read one page of a whole index; `call` holds the arguments of Scan without the table's name."""
        page: Mapping[str, Any] = self._client.scan(TableName=self._name, **call)
        return page
