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


_SERVICE_ROLES = {
    "AWSServiceRoleForAmazonEKS": "eks.amazonaws.com",
    "AWSServiceRoleForAmazonEKSNodegroup": "eks-nodegroup.amazonaws.com",
    "AWSServiceRoleForEC2Spot": "spot.amazonaws.com",
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
        known = {"aws:RequestedRegion": (self._region,), **context}
        for service, operation, params in self.calls:
            for action, arn in self._asked(service, operation, params, account):
                yield Request(action, arn, known)

    def _asked(
        self, service: str, operation: str, params: dict[str, Any], account: str
    ) -> Iterable[tuple[str, str]]:
        prefix = f"arn:{self._partition}"
        match service:
            case "sts":
                yield f"sts:{operation}", "*"
            case "cloudformation":
                name = params.get("StackName", "*")  # none means all
                name = name.split("/")[1] if name.startswith("arn:") else name
                arn = f"{prefix}:cloudformation:{self._region}:{account}:stack/{name}/0a1b2c"
                yield f"cloudformation:{operation}", arn
                if params.get("Tags"):
                    yield "cloudformation:TagResource", arn
                if "TemplateURL" in params:
                    yield "s3:GetObject", f"{prefix}:s3:::{params['TemplateURL'].split('/', 3)[3]}"
            case "s3" if operation == "ListBuckets":
                yield "s3:ListAllMyBuckets", "*"
            case "s3":
                yield from self._asked_of_s3(operation, params, f"{prefix}:s3:::{params['Bucket']}")
            case "ec2" | "lambda" | "logs" | "pricing":
                yield f"{service}:{operation}", "*"
            case "resourcegroupstaggingapi":
                yield f"tag:{operation}", "*"
            case "eks" if operation == "DescribeClusterVersions":
                yield "eks:DescribeClusterVersions", "*"
            case "eks":
                yield f"eks:{operation}", f"{prefix}:eks:{self._region}:{account}:cluster/{params['name']}"
            case "iam" if operation == "ListRoles":
                yield "iam:ListRoles", "*"
            case "iam" if operation == "SimulatePrincipalPolicy":
                yield f"iam:{operation}", params["PolicySourceArn"]
            case "iam":
                owner = _SERVICE_ROLES[params["RoleName"]]
                arn = f"{prefix}:iam::{account}:role/aws-service-role/{owner}/{params['RoleName']}"
                yield f"iam:{operation}", arn
            case "service-quotas" if operation == "GetServiceQuota":
                quota = f"{params['ServiceCode']}/{params['QuotaCode']}"
                yield f"servicequotas:{operation}", f"{prefix}:servicequotas:{self._region}:{account}:{quota}"
            case "service-quotas":
                yield f"servicequotas:{operation}", "*"
            case "ssm":
                for name in params["Names"]:
                    yield f"ssm:{operation}", f"{prefix}:ssm:{self._region}::parameter{name}"
            case "sns":
                yield f"sns:{operation}", params["TopicArn"]
            case "apigateway" if operation == "GetApiKey":
                yield "apigateway:GET", f"{prefix}:apigateway:{self._region}::/apikeys/{params['apiKey']}"
            case _:
                raise AssertionError(f"{service} {operation}: say here what it asks for")

    def _asked_of_s3(self, operation: str, params: dict[str, Any], bucket: str) -> Iterable[tuple[str, str]]:
        action = f"s3:{_S3_ACTIONS.get(operation, operation)}"
        if operation == "DeleteObjects":
            for item in params["Delete"]["Objects"]:
                yield action, f"{bucket}/{item['Key']}"
                if "VersionId" in item:
                    yield "s3:DeleteObjectVersion", f"{bucket}/{item['Key']}"
        else:
            yield action, f"{bucket}/{params['Key']}" if "Key" in params else bucket
