"""What a call of botocore's asks of IAM: actions, resources, condition keys, by the services' documentation.

https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Params = Mapping[str, Any]
Asked = tuple[str, str, dict[str, tuple[str, ...]]]

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
_S3_ACTIONS = {
    "HeadBucket": "ListBucket", "ListObjectsV2": "ListBucket", "ListObjectVersions": "ListBucketVersions",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock", "PutBucketEncryption": "PutEncryptionConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock", "GetBucketEncryption": "GetEncryptionConfiguration",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "HeadObject": "GetObject", "DeleteObjects": "DeleteObject",
}  # fmt: skip
_SERVICE_ROLES = {
    "AWSServiceRoleForAmazonEKS": "eks.amazonaws.com",
    "AWSServiceRoleForAmazonEKSNodegroup": "eks-nodegroup.amazonaws.com",
    "AWSServiceRoleForEC2Spot": "spot.amazonaws.com",
}
# By operation: the kind of resource, and the parameter that names it.
_EC2_TAKING = {
    "TerminateInstances": ("instance", "InstanceIds"),
    "DeleteLaunchTemplate": ("launch-template", "LaunchTemplateId"),
    "DeleteNetworkInterface": ("network-interface", "NetworkInterfaceId"),
    "DeleteSnapshot": ("snapshot", "SnapshotId"),
}


@dataclass(frozen=True)
class Caller:
    """Where a call is made."""

    partition: str
    region: str
    account: str

    def arn(
        self, service: str, resource: str, *, region: str | None = None, account: str | None = None
    ) -> str:
        place = self.region if region is None else region
        owner = self.account if account is None else account
        return f"arn:{self.partition}:{service}:{place}:{owner}:{resource}"


def asked(caller: Caller, service: str, operation: str, params: Params) -> list[Asked]:
    """Translate one call; one that nobody has looked up yet is an error."""
    translate = _SERVICES.get(service)
    assert translate is not None, f"{service} {operation}: say here what it asks for"
    return list(translate(caller, operation, params))


def _cloudformation(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    if "StackName" not in params:
        yield f"cloudformation:{operation}", "*", {}
        return
    name = params["StackName"]
    name = name.split("/")[1] if name.startswith("arn:") else name
    arn = caller.arn("cloudformation", f"stack/{name}/0a1b2c")
    yield f"cloudformation:{operation}", arn, {}
    if params.get("Tags"):
        yield "cloudformation:TagResource", arn, {}
    if "TemplateURL" in params:
        yield (
            "s3:GetObject",
            caller.arn("s3", params["TemplateURL"].split("/", 3)[3], region="", account=""),
            {},
        )


def _s3(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    if operation == "ListBuckets":
        yield "s3:ListAllMyBuckets", "*", {}
        return
    bucket = caller.arn("s3", params["Bucket"], region="", account="")
    action = f"s3:{_S3_ACTIONS.get(operation, operation)}"
    if operation != "DeleteObjects":
        yield action, f"{bucket}/{params['Key']}" if "Key" in params else bucket, {}
        return
    for item in params["Delete"]["Objects"]:
        yield action, f"{bucket}/{item['Key']}", {}
        if "VersionId" in item:
            yield "s3:DeleteObjectVersion", f"{bucket}/{item['Key']}", {}


def _ec2(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    if operation not in _EC2_TAKING:
        yield f"ec2:{operation}", "*", {}
        return
    kind, key = _EC2_TAKING[operation]
    account = "" if kind == "snapshot" else None
    for one in params[key] if isinstance(params[key], list) else [params[key]]:
        yield f"ec2:{operation}", caller.arn("ec2", f"{kind}/{one}", account=account), {}


def _eks(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    if operation == "DescribeClusterVersions":
        yield f"eks:{operation}", "*", {}
    elif "nodegroupName" in params:
        group = f"nodegroup/{params['clusterName']}/{params['nodegroupName']}/0a1b2c"
        yield f"eks:{operation}", caller.arn("eks", group), {}
    else:
        yield (
            f"eks:{operation}",
            caller.arn("eks", f"cluster/{params.get('name') or params['clusterName']}"),
            {},
        )


def _iam(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    def role(path: str) -> str:
        return caller.arn("iam", f"role/{path}", region="")

    match operation:
        case "ListRoles" | "ListInstanceProfiles":
            yield f"iam:{operation}", "*", {}
        case "SimulatePrincipalPolicy":
            yield f"iam:{operation}", params["PolicySourceArn"], {}
        case "CreateServiceLinkedRole":
            owner = params["AWSServiceName"]
            known = {"iam:AWSServiceName": (owner,)}
            yield f"iam:{operation}", role(f"aws-service-role/{owner}/AWSServiceRoleForIt"), known
        case _ if "InstanceProfileName" in params:
            # Those that Karpenter makes have its cluster's name in a path that the call does not name.
            name = params["InstanceProfileName"]
            path = f"instance-profile/karpenter/{caller.region}/{name.rpartition('_')[0]}/{name}"
            yield f"iam:{operation}", caller.arn("iam", path, region=""), {}
        case _:
            owner = _SERVICE_ROLES[params["RoleName"]]
            yield f"iam:{operation}", role(f"aws-service-role/{owner}/{params['RoleName']}"), {}


def _quotas(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    if operation == "GetServiceQuota":
        quota = f"{params['ServiceCode']}/{params['QuotaCode']}"
        yield f"servicequotas:{operation}", caller.arn("servicequotas", quota), {}
    else:
        yield f"servicequotas:{operation}", "*", {}


def _ssm(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    if operation == "GetParametersByPath":
        yield f"ssm:{operation}", caller.arn("ssm", f"parameter{params['Path']}"), {}
        return
    # AWS's own public parameters, which have no account.
    for name in params["Names"]:
        yield f"ssm:{operation}", caller.arn("ssm", f"parameter{name}", account=""), {}


def _ecr(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    yield f"ecr:{operation}", caller.arn("ecr", f"repository/{params['repositoryName']}"), {}


def _kms(_: Caller, operation: str, params: Params) -> Iterator[Asked]:
    yield f"kms:{operation}", params["KeyId"], {}


def _logs(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    is_one = operation == "DeleteLogGroup"
    yield (
        f"logs:{operation}",
        caller.arn("logs", f"log-group:{params['logGroupName']}") if is_one else "*",
        {},
    )


def _dynamodb(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    yield f"dynamodb:{operation}", caller.arn("dynamodb", f"table/{params['TableName']}"), {}


def _sns(_: Caller, operation: str, params: Params) -> Iterator[Asked]:
    yield f"sns:{operation}", params["TopicArn"], {}


def _apigateway(caller: Caller, operation: str, params: Params) -> Iterator[Asked]:
    assert operation == "GetApiKey", operation
    yield (
        "apigateway:GET",
        f"arn:{caller.partition}:apigateway:{caller.region}::/apikeys/{params['apiKey']}",
        {},
    )


def _without_resources(prefix: str) -> Callable[[Caller, str, Params], Iterator[Asked]]:
    def translate(_: Caller, operation: str, __: Params) -> Iterator[Asked]:
        yield f"{prefix}:{operation}", "*", {}

    return translate


_SERVICES: dict[str, Callable[[Caller, str, Params], Iterator[Asked]]] = {
    "apigateway": _apigateway, "cloudformation": _cloudformation, "dynamodb": _dynamodb, "ec2": _ec2,
    "ecr": _ecr, "eks": _eks, "iam": _iam, "kms": _kms, "lambda": _without_resources("lambda"), "logs": _logs,
    "pricing": _without_resources("pricing"),
    "resourcegroupstaggingapi": _without_resources("tag"), "s3": _s3, "service-quotas": _quotas,
    "sns": _sns, "ssm": _ssm, "sts": _without_resources("sts"),
}  # fmt: skip
