"""Decides as IAM does whether a policy allows a request, and records the requests that botocore makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sdctl.clients.aws import Aws
from support.iam_requests import Caller, asked


@dataclass(frozen=True)
class Request:
    """One action on one resource, with the condition keys that are known of it (values as tuples)."""

    action: str
    resource: str
    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in text)
    return re.compile("".join(parts), re.DOTALL)


def matches(pattern: str, text: str) -> bool:
    """IAM's wildcards: `*` for any run of characters, `?` for one."""
    return _pattern(pattern).fullmatch(text) is not None


_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda wanted, found: wanted == found,
    "StringLike": matches,
    "ArnEquals": matches,
    "ArnLike": matches,
}


def allows(document: Mapping[str, Any], request: Request) -> bool:
    """Tell whether some statement of a document allows a request; our documents deny nothing."""
    assert all(statement["Effect"] == "Allow" for statement in document["Statement"])
    return any(_applies(statement, request) for statement in document["Statement"])


def _applies(statement: Mapping[str, Any], request: Request) -> bool:
    return (
        any(action.lower() == request.action.lower() for action in statement["Action"])
        and any(matches(pattern, request.resource) for pattern in statement["Resource"])
        and all(
            _holds(operator, key, _listed(wanted), request)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _holds(operator: str, key: str, wanted: list[str], request: Request) -> bool:
    compare, found = _OPERATORS[operator], request.context.get(key, ())
    return any(compare(pattern, text) for pattern in wanted for text in found)


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def grants(document: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """Spell a document out: every action, resource and condition that it allows together."""
    return {
        (action, resource, repr(statement.get("Condition", {})))
        for statement in document["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    }


class Recorder:
    """Keeps every call that a session makes, as (service, operation, parameters)."""

    def __init__(self, aws: Aws) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self._region, self._partition = aws.region, aws.partition
        aws._open().events.register("provide-client-params.*.*", self._record)

    def _record(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.calls.append((model.service_model.service_name, model.name, params))

    @property
    def operations(self) -> set[tuple[str, str]]:
        """What was called, as (service, operation)."""
        return {(service, operation) for service, operation, _ in self.calls}

    def requests(self, account: str, **context: tuple[str, ...]) -> Iterable[Request]:
        """Translate the calls into what IAM is asked; `context` has tags of the resources."""
        caller = Caller(self._partition, self._region, account)
        for call in self.calls:
            yield from requests_of(caller, *call, **context)


def requests_of(
    caller: Caller, service: str, operation: str, params: Mapping[str, Any], **context: tuple[str, ...]
) -> Iterable[Request]:
    """Translate a call into what IAM is asked; `context` has tags of its resources."""
    for action, arn, known in asked(caller, service, operation, params):
        yield Request(action, arn, {"aws:RequestedRegion": (caller.region,), **context, **known})
