"""One DynamoDB table in memory: keyed reads, conditional writes, and the queries of the index `open`.

Knows exactly the expressions that `sdctl.task_record` and the sweep write and refuses any other, so that
it cannot agree with something that DynamoDB would not.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

Item = dict[str, Any]
_TOKEN = re.compile(r"\s*(attribute_not_exists|attribute_exists|if_not_exists|AND|OR|[#:]?\w+|[()=<>,+])")


def _tokens(text: str) -> list[str]:
    found, end = [], 0
    text = text.rstrip()
    while end < len(text):
        match = _TOKEN.match(text, end)
        if match is None:
            raise ValueError(f"not understood: {text[end:]!r}")
        found.append(match[1])
        end = match.end()
    return found


class _Expression:
    """Evaluates one expression against one item, by recursive descent."""

    def __init__(
        self, text: str, item: Mapping[str, Any], names: Mapping[str, str], values: Mapping[str, Any]
    ) -> None:
        self.rest = _tokens(text)
        self._item, self._names, self._values = item, names, values
        self.used: set[str] = set()

    def take(self, *expected: str) -> str:
        token = self.rest.pop(0)
        if expected and token not in expected:
            raise ValueError(f"{token!r} where {expected} was expected")
        return token

    def peek(self) -> str:
        return self.rest[0] if self.rest else ""

    def name(self) -> str:
        token = self.take()
        if token == "id":
            return token
        self.used.add(token)
        return self._names[token]

    def disjunction(self) -> bool:
        result = self.conjunction()
        while self.peek() == "OR":
            self.take()
            result = self.conjunction() or result
        return result

    def conjunction(self) -> bool:
        result = self.comparison()
        while self.peek() == "AND":
            self.take()
            result = self.comparison() and result
        return result

    def comparison(self) -> bool:
        if self.peek() == "(":
            self.take()
            result = self.disjunction()
            self.take(")")
            return result
        if self.peek() in ("attribute_exists", "attribute_not_exists"):
            wants = self.take() == "attribute_exists"
            self.take("(")
            name = self.name()
            self.take(")")
            return (name in self._item) == wants
        left, operator, right = self.operand(), self.take("=", "<", ">"), self.operand()
        if left is None or right is None:
            return False  # a comparison with a missing attribute is false
        (left_kind, left_value), (right_kind, right_value) = left.popitem(), right.popitem()
        if left_kind != right_kind:
            return False
        if left_kind == "N":
            left_value, right_value = float(left_value), float(right_value)
        if operator == "=":
            return bool(left_value == right_value)
        return bool(left_value < right_value if operator == "<" else left_value > right_value)

    def operand(self) -> dict[str, Any] | None:
        token = self.peek()
        if token == "if_not_exists":
            self.take()
            self.take("(")
            name = self.name()
            self.take(",")
            other = self.operand()
            self.take(")")
            found = self._item.get(name)
            return dict(found) if found is not None else other
        if token.startswith(":"):
            self.used.add(token)
            return dict(self._values[self.take()])
        found = self._item.get(self.name())
        return dict(found) if found is not None else None

    def sum(self) -> dict[str, Any]:
        total = self.operand()
        if total is None:
            raise ValueError("SET takes no missing attribute")
        while self.peek() == "+":
            self.take()
            more = self.operand()
            assert more is not None
            total = {"N": repr(int(total["N"]) + int(more["N"]))}
        return total


def _updated(item: Item, call: Mapping[str, Any]) -> tuple[Item, set[str]]:
    text = call["UpdateExpression"]
    names, values = call["ExpressionAttributeNames"], call.get("ExpressionAttributeValues", {})
    expression = _Expression(text, item, names, values)
    new = dict(item) | call["Key"]
    touched: set[str] = set()
    section = ""
    while expression.rest:
        if expression.peek() in ("SET", "REMOVE"):
            section = expression.take()
        name = expression.name()
        if name in touched:
            raise ValueError(f"{name} is written twice")
        touched.add(name)
        if section == "SET":
            expression.take("=")
            new[name] = expression.sum()
        else:
            new.pop(name, None)
        if expression.peek() == ",":
            expression.take()
    if "id" in touched:
        raise ValueError("the key cannot be written")
    return new, expression.used


class ConditionalTable:
    """The table as a client; `watch` sees each write as (old item or None, new item).

    `fault` is asked before each call with the operation, and does what a network does: it may raise
    before, or, by returning True, have the answer lost so that the client's own retry repeats the call.
    """

    def __init__(self, watch: Callable[[Item | None, Item], None], fault: Callable[[str], bool]) -> None:
        self.items: dict[str, Item] = {}
        self._watch = watch
        self._fault = fault

    def client(self, service: str) -> ConditionalTable:
        assert service == "dynamodb", service
        return self

    def get_item(self, *, TableName: str, Key: Item, ConsistentRead: bool) -> dict[str, Any]:
        assert ConsistentRead
        self._fault("get_item")
        item = self.items.get(Key["id"]["S"])
        return {"Item": copy.deepcopy(item)} if item is not None else {}

    def put_item(self, **call: Any) -> dict[str, Any]:
        return self._twice("put_item", lambda: self._write(call, dict(call["Item"]), set()))

    def update_item(self, **call: Any) -> dict[str, Any]:
        def write() -> dict[str, Any]:
            old = self.items.get(call["Key"]["id"]["S"], {})
            return self._write(call, *_updated(old, call))

        return self._twice("update_item", write)

    def _twice(self, operation: str, write: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        is_lost = self._fault(operation)
        answer = write()
        if is_lost:
            answer = write()
        self._fault(f"after {operation}")
        return answer

    def _write(self, call: dict[str, Any], new: Item, used: set[str]) -> dict[str, Any]:
        task_id = new["id"]["S"]
        old = self.items.get(task_id)
        names, values = call.get("ExpressionAttributeNames", {}), call.get("ExpressionAttributeValues", {})
        if "ConditionExpression" in call:
            condition = _Expression(call["ConditionExpression"], old or {}, names, values)
            holds = condition.disjunction()
            assert not condition.rest, condition.rest
            used = used | condition.used
        else:
            holds = True
        unused = {*names, *values} - used
        assert not unused, f"DynamoDB refuses placeholders that are not used: {unused}"
        if not holds:
            answer: Any = {"Error": {"Code": "ConditionalCheckFailedException", "Message": "no"}}
            if old is not None and call.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD":
                answer["Item"] = copy.deepcopy(old)
            raise ClientError(answer, "UpdateItem")
        self.items[task_id] = copy.deepcopy(new)
        self._watch(old, copy.deepcopy(new))
        return {"Attributes": copy.deepcopy(new)}

    def query(self, **call: Any) -> dict[str, Any]:
        """Read one page of the index `open`."""
        assert call["IndexName"] == "open"
        names, values = call["ExpressionAttributeNames"], call["ExpressionAttributeValues"]
        found = []
        for item in self.items.values():
            condition = _Expression(call["KeyConditionExpression"], item, names, values)
            if {"open_runtime", "open_until"} <= item.keys() and condition.disjunction():
                found.append({"id": item["id"]})
        return {"Items": found}

    def scan(self, **call: Any) -> dict[str, Any]:
        """Read the whole index `open`."""
        assert call["IndexName"] == "open"
        rows = [item for item in self.items.values() if {"open_runtime", "open_until"} <= item.keys()]
        return {"Items": [{"open_runtime": item["open_runtime"]} for item in rows]}
