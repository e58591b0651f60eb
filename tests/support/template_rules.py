"""What cfn-lint does not look at: each rule yields what it finds wrong with a template, as text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

Template = Mapping[str, Any]

# Actions that know no narrower resource, as the service authorization reference says:
# https://docs.aws.amazon.com/service-authorization/latest/reference/
UNNARROWABLE = (
    "ec2:Describe", "iam:ListInstanceProfiles", "pricing:GetProducts", "xray:Get", "xray:Put",
)  # fmt: skip


def of_type(template: Template, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for logical, body in template["Resources"].items():
        if body["Type"] == kind:
            yield logical, body.get("Properties", {})


@cache
def instance_types() -> frozenset[str]:
    """Every instance type that the SDK knows."""
    from botocore.session import Session

    return frozenset(Session().get_service_model("ec2").shape_for("InstanceType").enum)


def function_sizes(template: Template) -> Iterator[str]:
    """https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""
    for logical, function in of_type(template, "AWS::Lambda::Function"):
        if not 128 <= function["MemorySize"] <= 10_240:
            yield f"{logical}: {function['MemorySize']} MiB"
        if not 1 <= function["Timeout"] <= 900:
            yield f"{logical}: {function['Timeout']} s"


def node_types(template: Template) -> Iterator[str]:
    for logical, group in of_type(template, "AWS::EKS::Nodegroup"):
        for name in group["InstanceTypes"]:
            if name not in instance_types():
                yield f"{logical}: there is no {name}"


def filter_policies(template: Template) -> Iterator[str]:
    """https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html"""
    for logical, subscription in of_type(template, "AWS::SNS::Subscription"):
        if subscription.get("FilterPolicyScope", "MessageAttributes") != "MessageAttributes":
            yield f"{logical}: FilterPolicyScope {subscription['FilterPolicyScope']}"
        policy = subscription.get("FilterPolicy", {})
        for branch in policy.get("$or", [policy]):
            for key, values in branch.items():
                if not (isinstance(values, list) and values):
                    yield f"{logical}: {key} has no list of values"


def queue_endpoints(template: Template) -> Iterator[str]:
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    for logical, subscription in of_type(template, "AWS::SNS::Subscription"):
        endpoint = subscription["Endpoint"]
        if subscription["Protocol"] == "sqs" and endpoint not in ({"Fn::GetAtt": [q, "Arn"]} for q in queues):
            yield f"{logical}: {endpoint} is no queue of this template"


def proxies(template: Template) -> Iterator[str]:
    for logical, method in of_type(template, "AWS::ApiGateway::Method"):
        integration = method["Integration"]
        if integration["Type"] == "AWS_PROXY":
            if integration.get("IntegrationHttpMethod") != "POST":
                yield f"{logical}: a function is invoked by POST"
            if ":lambda:path/2015-03-31/functions/" not in json.dumps(integration.get("Uri", "")):
                yield f"{logical}: no Uri of a function"


def deployments(template: Template) -> Iterator[str]:
    methods = {logical for logical, _ in of_type(template, "AWS::ApiGateway::Method")}
    for logical, body in template["Resources"].items():
        if body["Type"] == "AWS::ApiGateway::Deployment" and methods - set(
            _listed(body.get("DependsOn", []))
        ):
            yield f"{logical}: may be made before its methods"


def privileges(template: Template) -> Iterator[str]:
    for logical, role in of_type(template, "AWS::IAM::Role"):
        for policy in role.get("Policies", []):
            for statement in policy["PolicyDocument"]["Statement"]:
                actions = _listed(statement["Action"])
                yield from (f"{logical}: {action}" for action in actions if "*" in action)
                if "*" in _listed(statement["Resource"]):
                    wide = [action for action in actions if not action.startswith(UNNARROWABLE)]
                    yield from (f"{logical}: {action} on everything" for action in wide)


def managed_policies(template: Template) -> Iterator[str]:
    for logical, role in of_type(template, "AWS::IAM::Role"):
        for policy in role.get("ManagedPolicyArns", []):
            if re.search(r"FullAccess|Administrator|PowerUser", json.dumps(policy)):
                yield f"{logical}: {json.dumps(policy)}"


def encryption(template: Template) -> Iterator[str]:
    for logical, queue in of_type(template, "AWS::SQS::Queue"):
        if not (queue.get("SqsManagedSseEnabled") is True or queue.get("KmsMasterKeyId")):
            yield f"{logical}: not encrypted"
    # CloudWatch cannot use the key that AWS manages for SNS; an alarm's text names queues and functions only.
    # https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html
    for logical, topic in of_type(template, "AWS::SNS::Topic"):
        if not topic.get("KmsMasterKeyId") and logical != "AlarmTopic":
            yield f"{logical}: not encrypted"
    for logical, bucket in of_type(template, "AWS::S3::Bucket"):
        blocked = bucket.get("PublicAccessBlockConfiguration", {})
        if "BucketEncryption" not in bucket or len(blocked) != 4 or not all(blocked.values()):
            yield f"{logical}: not private and encrypted"


def retention(template: Template) -> Iterator[str]:
    for logical, group in of_type(template, "AWS::Logs::LogGroup"):
        if not group.get("RetentionInDays"):
            yield f"{logical}: keeps its events for ever"


def sizes(template: Template) -> Iterator[str]:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html"""
    body = json.dumps(template, ensure_ascii=False, separators=(",", ":")).encode()
    if len(body) > 1024 * 1024:
        yield f"{len(body)} bytes"
    for section, most in (("Parameters", 200), ("Resources", 500), ("Outputs", 200)):
        if len(template.get(section, {})) > most:
            yield f"{len(template[section])} {section.lower()}"
    if len(template.get("Description", "").encode()) > 1024:
        yield "a description of more than 1,024 bytes"


RULES: dict[str, Callable[[Template], Iterator[str]]] = {
    rule.__name__: rule
    for rule in (
        function_sizes, node_types, filter_policies, queue_endpoints, proxies, deployments, privileges,
        managed_policies, encryption, retention, sizes,
    )
}  # fmt: skip


def findings(template: Template) -> list[str]:
    """Return what any rule finds."""
    return [f"{name}: {text}" for name, rule in RULES.items() for text in rule(template)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
