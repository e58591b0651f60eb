"""What a deployment's resources are called: ARN patterns by kind of resource, from its templates.

A resource without a name of its own gets one from CloudFormation, which begins with the stack's name, cut
where the whole would be too long; that beginning is what a policy can be narrowed to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sdctl.render.policies import KEPT_NAME_LENGTH
from sdctl.render.stacks import Stack


@dataclass(frozen=True, slots=True)
class Place:
    """Where a policy is for; an unknown account is `*`: an identity's policy reaches its own account only."""

    region: str
    account: str = "*"

    @property
    def partition(self) -> str:
        """The partition of the region."""
        prefix = self.region.partition("-")[0]
        return {"cn": "aws-cn"}.get(prefix, "aws-us-gov" if self.region.startswith("us-gov-") else "aws")

    def arn(self, text: str) -> str:
        """Complete an ARN after its partition; `{region}` and `{account}` are filled in."""
        return f"arn:{self.partition}:" + text.format(region=self.region, account=self.account)


@dataclass(frozen=True, slots=True)
class _Named:
    """A kind of resource whose ARN holds its name: the type, the path of the property, and the ARN."""

    type: str
    property: str
    arn: str


_REGIONAL: Final = "{region}:{account}"
_NAMED: Final = {
    "apigateway domainname": _Named(
        "AWS::ApiGateway::DomainName", "DomainName", "apigateway:{region}::/domainnames/",
    ),
    "budgets budget": _Named("AWS::Budgets::Budget", "Budget.BudgetName", "budgets::{account}:budget/"),
    "cloudwatch alarm": _Named("AWS::CloudWatch::Alarm", "AlarmName", f"cloudwatch:{_REGIONAL}:alarm:"),
    "cloudwatch dashboard": _Named(
        "AWS::CloudWatch::Dashboard", "DashboardName", "cloudwatch::{account}:dashboard/",
    ),
    "dynamodb table": _Named("AWS::DynamoDB::Table", "TableName", f"dynamodb:{_REGIONAL}:table/"),
    "eks cluster": _Named("AWS::EKS::Cluster", "Name", f"eks:{_REGIONAL}:cluster/"),
    "events rule-on-default-event-bus": _Named("AWS::Events::Rule", "Name", f"events:{_REGIONAL}:rule/"),
    "iam instance-profile": _Named(
        "AWS::IAM::InstanceProfile", "InstanceProfileName", "iam::{account}:instance-profile/",
    ),
    "iam role": _Named("AWS::IAM::Role", "RoleName", "iam::{account}:role/"),
    "lambda function": _Named("AWS::Lambda::Function", "FunctionName", f"lambda:{_REGIONAL}:function:"),
    "logs log-group": _Named("AWS::Logs::LogGroup", "LogGroupName", f"logs:{_REGIONAL}:log-group:"),
    "s3 bucket": _Named("AWS::S3::Bucket", "BucketName", "s3:::"),
    "sns topic": _Named("AWS::SNS::Topic", "TopicName", f"sns:{_REGIONAL}:"),
    "sqs queue": _Named("AWS::SQS::Queue", "QueueName", f"sqs:{_REGIONAL}:"),
    # Its name begins with the slash.
    "ssm parameter": _Named("AWS::SSM::Parameter", "Name", f"ssm:{_REGIONAL}:parameter"),
    "states statemachine": _Named(
        "AWS::StepFunctions::StateMachine", "StateMachineName", f"states:{_REGIONAL}:stateMachine:",
    ),
}  # fmt: skip
# What lies inside a cluster has its name in the ARN.
_IN_CLUSTER: Final = ("access-entry", "addon", "nodegroup", "podidentityassociation")
# Kinds whose ids AWS makes up, by the type that makes them; tags narrow what may be done to them.
_UNNAMED: Final = {
    "ec2 elastic-ip": "AWS::EC2::EIP", "ec2 internet-gateway": "AWS::EC2::InternetGateway",
    "ec2 launch-template": "AWS::EC2::LaunchTemplate", "ec2 natgateway": "AWS::EC2::NatGateway",
    "ec2 route-table": "AWS::EC2::RouteTable", "ec2 security-group": "AWS::EC2::SecurityGroup",
    "ec2 subnet": "AWS::EC2::Subnet", "ec2 vpc": "AWS::EC2::VPC",
    "ec2 vpc-endpoint": "AWS::EC2::VPCEndpoint",
}  # fmt: skip
# What a node group's instances are made of; the launch may also use what is not ours.
_INSTANCE_PARTS: Final = ("instance", "volume", "network-interface", "subnet", "security-group")


def named(stack: str) -> str:
    """Return the pattern of the names that CloudFormation makes up in a stack."""
    begin = stack[:-1] if stack.endswith("*") else f"{stack}-"
    return f"{begin}*" if len(stack) <= KEPT_NAME_LENGTH else f"{stack[:KEPT_NAME_LENGTH]}*"


class Scopes:
    """The ARN patterns of what some stacks hold."""

    def __init__(
        self, stacks: Iterable[Stack], place: Place, asset_objects: Iterable[str], kms_key: str | None = None
    ) -> None:
        """Read the names out of the templates.

        Args:
            stacks: the rendered stacks.
            place: partition, region and account.
            asset_objects: ARN patterns of the objects that CloudFormation reads: code and templates.
            kms_key: ARN of the key that the configuration names.
        """
        self.stacks, self.place = tuple(stacks), place
        self._objects = tuple(asset_objects)
        self._kms_keys = (kms_key,) if kms_key else ()
        self._types = {body["Type"] for _, body in self.resources()}

    def resources(self) -> Iterable[tuple[Stack, Mapping[str, Any]]]:
        """Yield every resource with its stack."""
        for stack in self.stacks:
            for body in stack.template.document["Resources"].values():
                yield stack, body

    def arns(self, service: str, kind: str) -> tuple[str, ...]:
        """Return the ARN patterns of a kind of resource, none where the stacks have none of it."""
        name = f"{service} {kind}"
        if name in _NAMED:
            return self._named(_NAMED[name])
        if service == "eks" and kind in _IN_CLUSTER:
            clusters = self._names(_NAMED["eks cluster"])
            return tuple(self.place.arn(f"eks:{_REGIONAL}:{kind}/{cluster}/*") for cluster in clusters)
        if name in _UNNAMED:
            return self._ec2(kind) if _UNNAMED[name] in self._types else ()
        return self._other(name)

    def _other(self, name: str) -> tuple[str, ...]:
        match name:
            case "s3 object":
                return self._objects
            case "kms key":
                return self._kms_keys
            case "lambda eventsourcemapping" if "AWS::Lambda::EventSourceMapping" in self._types:
                return (self.place.arn(f"lambda:{_REGIONAL}:event-source-mapping:*"),)
            case _:
                return ()

    def instance_parts(self) -> tuple[str, ...]:
        """Return the ARN patterns of all that launching an instance touches."""
        image = self.place.arn("ec2:{region}::image/*")
        return (image, *(arn for kind in ("launch-template", *_INSTANCE_PARTS) for arn in self._ec2(kind)))

    def _ec2(self, kind: str) -> tuple[str, ...]:
        return (self.place.arn(f"ec2:{_REGIONAL}:{kind}/*"),)

    def _named(self, kind: _Named) -> tuple[str, ...]:
        # A log group's ARN ends in `:*` for some actions, and does not for others.
        suffix = "*" if kind.type == "AWS::Logs::LogGroup" else ""
        arns = {self.place.arn(kind.arn) + name + ("" if name.endswith("*") else suffix)
                for name in self._names(kind)}  # fmt: skip
        return tuple(sorted(arns))

    def _names(self, kind: _Named) -> set[str]:
        names = set()
        for stack, body in self.resources():
            if body["Type"] == kind.type:
                given: Any = body.get("Properties", {})
                for key in kind.property.split("."):
                    given = (given or {}).get(key)
                name = named(stack.name) if given is None else self._text(given, stack)
                names.add(name.lower() if kind.type == "AWS::S3::Bucket" else name)
        return names

    def trusted_services(self) -> tuple[str, ...]:
        """Return the services that the stacks' roles trust: the only ones a role can be passed to."""
        return self._role_texts(
            lambda role: [
                service
                for statement in role["AssumeRolePolicyDocument"]["Statement"]
                for service in _listed(statement["Principal"].get("Service", []))
            ]
        )

    def managed_policies(self) -> tuple[str, ...]:
        """Return the ARNs of the managed policies that the stacks attach to their roles."""
        return self._role_texts(lambda role: _listed(role.get("ManagedPolicyArns", [])))

    def _role_texts(self, read: Callable[[Mapping[str, Any]], list[Any]]) -> tuple[str, ...]:
        found = {
            self._text(value, stack)
            for stack, body in self.resources()
            if body["Type"] == "AWS::IAM::Role"
            for value in read(body["Properties"])
        }
        return tuple(sorted(found))

    def _text(self, value: Any, stack: Stack) -> str:
        """Resolve what is known of a text before its stack is there; the rest is a wildcard."""
        if isinstance(value, str):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("Fn::Sub"), str):
            return "*"
        known = {
            "AWS::StackName": stack.name, "AWS::Partition": self.place.partition,
            "AWS::Region": self.place.region, "AWS::AccountId": self.place.account,
            "AWS::URLSuffix": "amazonaws.com.cn" if self.place.partition == "aws-cn" else "amazonaws.com",
        }  # fmt: skip
        return re.sub(r"\$\{([^}]+)\}", lambda match: known.get(match[1], "*"), value["Fn::Sub"])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
