"""What CloudFormation calls in the deployer's name, by resource type, and when.

The handlers' permissions are those of the CloudFormation registry (`handlers.json`, with its date;
`tests/support/handler_permissions.py` writes it). A schema lists what any property may need: here each
such action that goes to another service, or is dangerous, is tied to the property that it is for.
https://docs.aws.amazon.com/cloudformation-cli/latest/userguide/resource-type-schema.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

# A stack's operations call these; `list` is for inventories of an account only.
CHANGING: Final = ("create", "read", "update", "delete")
REMOVING: Final = ("read", "delete")
# For what this kind of table never has, as replicas: they belong to AWS::DynamoDB::GlobalTable.
_NEVER: Final[tuple[str, ...]] = ()
_IMPORT: Final = ("ImportSourceSpecification",)
_AUDIT: Final = ("DataProtectionPolicy",)
_NAT_SECONDARIES: Final = (
    "SecondaryAllocationIds", "SecondaryPrivateIpAddresses", "SecondaryPrivateIpAddressCount",
)  # fmt: skip
_IPV6: Final = ("Ipv6CidrBlock", "Ipv6IpamPoolId")
_METADATA_TABLES: Final = ("MetadataTableConfiguration", "MetadataConfiguration")
# Type -> action, or a service with its colon -> the properties, anywhere inside the resource, that need it.
OPTIONAL: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "AWS::ApiGateway::Method": {"iam:PassRole": ("Credentials",)},
    "AWS::ApiGateway::RestApi": {
        "iam:PassRole": ("Body", "BodyS3Location"), "s3:GetObject": ("BodyS3Location",),
        "apigateway:UpdateRestApiPolicy": ("Policy",),
    },
    "AWS::Budgets::Budget": {"billing:": ("BillingViewArn",)},
    "AWS::DynamoDB::Table": {
        **{f"dynamodb:{name}": _NEVER for name in (
            "AssociateTableReplica", "BatchWriteItem", "CreateTableReplica", "DeleteItem", "GetItem",
            "PutItem", "Query", "Scan", "UpdateItem",
        )},
        "dynamodb:DescribeImport": _IMPORT, "dynamodb:ImportTable": _IMPORT, "logs:": _IMPORT,
        "s3:": _IMPORT, "kms:": ("SSESpecification",), "kinesis:": ("KinesisStreamSpecification",),
        "iam:CreateServiceLinkedRole": ("KinesisStreamSpecification",),
    },
    "AWS::EC2::EIP": {
        "ec2:AcceptAddressTransfer": ("TransferAddress",), "ec2:AssociateAddress": ("InstanceId",),
    },
    "AWS::EC2::NatGateway": {
        f"ec2:{name}": _NAT_SECONDARIES for name in (
            "AssignPrivateNatGatewayAddress", "AssociateNatGatewayAddress",
            "DisassociateNatGatewayAddress", "UnassignPrivateNatGatewayAddress",
        )
    },
    "AWS::EC2::Subnet": {
        "ec2:AssociateSubnetCidrBlock": _IPV6, "ec2:DisassociateSubnetCidrBlock": _IPV6,
    },
    "AWS::EC2::VPC": {"ec2:CreateVpcEncryptionControl": ("VpcEncryptionControl",)},
    "AWS::EC2::VPCEndpoint": {
        "vpc-lattice:": ("ServiceNetworkArn", "ResourceConfigurationArn"), "vpce:": ("ServiceRegion",),
    },
    "AWS::EC2::VPCGatewayAttachment": {
        "ec2:AttachVpnGateway": ("VpnGatewayId",), "ec2:DetachVpnGateway": ("VpnGatewayId",),
    },
    "AWS::EKS::Cluster": {
        "kms:": ("EncryptionConfig",),
        **{f"iam:{name}InstanceProfile": ("ComputeConfig",) for name in (
            "AddRoleTo", "Create", "Delete", "Get", "RemoveRoleFrom", "Tag",
        )},
    },
    "AWS::Events::Rule": {"iam:PassRole": ("RoleArn",)},
    "AWS::Lambda::EventSourceMapping": {"kms:": ("KmsKeyArn",)},
    "AWS::Lambda::Function": {
        "ec2:": ("VpcConfig",), "elasticfilesystem:": ("FileSystemConfigs",), "kms:": ("KmsKeyArn",),
        "s3files:": ("FileSystemConfigs",), "lambda:GetLayerVersion": ("Layers",),
        "lambda:PassCapacityProvider": ("CapacityProviderConfig",),
        "lambda:GetCodeSigningConfig": ("CodeSigningConfigArn",),
        "lambda:PutFunctionCodeSigningConfig": ("CodeSigningConfigArn",),
    },
    "AWS::Logs::LogGroup": {
        "firehose:": _AUDIT, "logs:CreateLogDelivery": _AUDIT,
        "logs:PutDataProtectionPolicy": _AUDIT,
        "logs:PutResourcePolicy": (*_AUDIT, "ResourcePolicyDocument"),
        "logs:DeleteResourcePolicy": ("ResourcePolicyDocument",),
        "logs:PutIndexPolicy": ("FieldIndexPolicies",), "logs:DeleteIndexPolicy": ("FieldIndexPolicies",),
        "logs:AssociateKmsKey": ("KmsKeyId",), "logs:DisassociateKmsKey": ("KmsKeyId",),
        "logs:PutBearerTokenAuthentication": ("BearerTokenAuthenticationEnabled",),
    },
    "AWS::S3::Bucket": {
        "iam:PassRole": ("ReplicationConfiguration",), "s3tables:": _METADATA_TABLES,
        "s3:DeleteObject": ("AccessControl",), "s3:PutObjectAcl": ("AccessControl",),
        "s3:PutBucketAcl": ("AccessControl",),
        "s3:PutReplicationConfiguration": ("ReplicationConfiguration",),
        "s3:PutBucketNotification": ("NotificationConfiguration",),
    },
    "AWS::SNS::Subscription": {"iam:": ("SubscriptionRoleArn",)},
    "AWS::SNS::Topic": {
        "iam:": ("DeliveryStatusLogging",), "sns:PutDataProtectionPolicy": ("DataProtectionPolicy",),
        "sns:Subscribe": ("Subscription",), "sns:Unsubscribe": ("Subscription",),
    },
    "AWS::StepFunctions::StateMachine": {
        "kms:": ("EncryptionConfiguration",), "s3:": ("DefinitionS3Location",),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Handlers:
    """The registry's data: `types` type -> handler -> actions, `resources` action -> kinds of resources."""

    schema_date: str
    types: Mapping[str, Mapping[str, tuple[str, ...]]]
    resources: Mapping[str, tuple[str, ...]]


@cache
def handlers() -> Handlers:
    """Load `handlers.json`."""
    document = json.loads(Path(__file__).with_name("handlers.json").read_text(encoding="utf-8"))
    return Handlers(
        document["schema_date"],
        {
            name: {handler: tuple(actions) for handler, actions in of_type.items()}
            for name, of_type in document["types"].items()
        },
        {action: tuple(kinds) for action, kinds in document["resources"].items()},
    )


def handler_actions(resources: Iterable[Mapping[str, Any]], operations: Iterable[str]) -> dict[str, set[str]]:
    """Return the actions that CloudFormation needs for resources, each with the types that need it.

    Args:
        resources: bodies of a template's resources, `{"Type": …, "Properties": …}`.
        operations: handlers, as `CHANGING`.

    Raises:
        KeyError: a type is not in `handlers.json`.
    """
    wanted, found = tuple(operations), dict[str, set[str]]()
    properties: dict[str, set[str]] = {}
    for body in resources:
        properties.setdefault(body["Type"], set()).update(_keys(body.get("Properties", {})))
    for name, used in properties.items():
        for operation in wanted:
            for action in handlers().types[name].get(operation, ()):
                if _is_needed(name, action, used):
                    found.setdefault(action, set()).add(name)
    return found


def _is_needed(resource_type: str, action: str, used: set[str]) -> bool:
    table = OPTIONAL.get(resource_type, {})
    needs = table.get(action, table.get(action.partition(":")[0] + ":"))
    return needs is None or not used.isdisjoint(needs)


def _keys(value: Any) -> set[str]:
    """Gather the names of all properties, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    if isinstance(value, list):
        return set().union(*map(_keys, value))
    return set()
