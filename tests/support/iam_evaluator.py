"""Decides as IAM does whether a policy allows a request, and records the requests that botocore makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sdctl.clients.aws import Aws


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


# ---- What a call of botocore's asks for, written from the services' documentation -----------------
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
_S3_ACTIONS = {
    "HeadBucket": "ListBucket", "ListObjectsV2": "ListBucket", "ListObjectVersions": "ListBucketVersions",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock", "PutBucketEncryption": "PutEncryptionConfiguration",
    "HeadObject": "GetObject", "DeleteObjects": "DeleteObject",
}  # fmt: skip


class Recorder:
    """Keeps every call that a session makes, as (service, operation, parameters)."""

    def __init__(self, aws: Aws) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self._region, self._partition = aws.region, aws.partition
        session = aws._open()
        session.events.register("provide-client-params.*.*", self._record)

    def _record(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.calls.append((model.service_model.endpoint_prefix, model.name, params))

    def requests(self, account: str, names: Mapping[str, str]) -> Iterable[Request]:
        """Translate the calls; `names` has the stack name behind each stack id that was used."""
        for service, operation, params in self.calls:
            yield from self._requests(service, operation, params, account, names)

    def _requests(
        self, service: str, operation: str, params: dict[str, Any], account: str, names: Mapping[str, str]
    ) -> Iterable[Request]:
        partition, region = self._partition, self._region
        here = {"aws:RequestedRegion": (region,)}
        match service:
            case "sts":
                yield Request(f"sts:{operation}", "*", here)
            case "cloudformation":
                name = names.get(params["StackName"], params["StackName"])
                arn = f"arn:{partition}:cloudformation:{region}:{account}:stack/{name}/0a1b2c"
                yield Request(f"cloudformation:{operation}", arn, here)
                if params.get("Tags"):
                    yield Request("cloudformation:TagResource", arn, here)
                if "TemplateURL" in params:
                    path = params["TemplateURL"].split("/", 3)[3]
                    yield Request("s3:GetObject", f"arn:{partition}:s3:::{path}", here)
            case "s3" if operation == "ListBuckets":
                yield Request("s3:ListAllMyBuckets", "*", here)
            case "s3":
                bucket = f"arn:{partition}:s3:::{params['Bucket']}"
                action = f"s3:{_S3_ACTIONS.get(operation, operation)}"
                if operation == "DeleteObjects":
                    for item in params["Delete"]["Objects"]:
                        yield Request(action, f"{bucket}/{item['Key']}", here)
                        if item.get("VersionId", "null") != "null":
                            yield Request("s3:DeleteObjectVersion", f"{bucket}/{item['Key']}", here)
                else:
                    yield Request(action, f"{bucket}/{params['Key']}" if "Key" in params else bucket, here)
            case "sns":
                yield Request(f"sns:{operation}", params["TopicArn"], here)
            case "apigateway" if operation == "GetApiKey":
                tags = {"aws:ResourceTag/sdctl:stack": tuple(names.values())[:1]}
                arn = f"arn:{partition}:apigateway:{region}::/apikeys/{params['apiKey']}"
                yield Request("apigateway:GET", arn, here | tags)
            case _:
                raise AssertionError(f"{service} {operation}: say here what it asks for")
