"""The AWS calls that sdctl makes itself, by purpose, with the actions that each needs and on what.

A call's action is mostly its own name; where it is not, the source is
https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html (S3) and
https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-iam-policy-examples.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Purpose = Literal["deploy", "submit", "destroy", "snapshot", "models", "images"]
PURPOSES: Final[tuple[Purpose, ...]] = ("deploy", "submit", "destroy", "snapshot", "models", "images")


@dataclass(frozen=True, slots=True)
class Call:
    """One API operation: `on` names the targets of `sdctl.iam.policy`, `actions` what it is allowed by."""

    service: str
    operation: str
    on: tuple[str, ...]
    actions: tuple[str, ...]


def _calls(service: str, on: str | tuple[str, ...], *operations: str) -> tuple[Call, ...]:
    targets = (on,) if isinstance(on, str) else on
    return tuple(Call(service, name, targets, (f"{service}:{name}",)) for name in operations)


def _s3(operation: str, on: str | tuple[str, ...], *actions: str) -> Call:
    targets = (on,) if isinstance(on, str) else on
    return Call("s3", operation, targets, tuple(f"s3:{name}" for name in actions or (operation,)))


_WHO: Final = _calls("sts", "anything", "GetCallerIdentity")
_READ_STACKS: Final = (
    # All are listed at once, without a name.
    *_calls("cloudformation", "anything here", "DescribeStacks"),
    *_calls("cloudformation", "stacks", "DescribeStackEvents"),
)


def _made_safe(buckets: str) -> tuple[Call, ...]:
    """List what making a bucket takes, and bringing one that is there to the same safety."""
    return (
        _s3("HeadBucket", buckets, "ListBucket"),
        _s3("CreateBucket", buckets),
        _s3("GetBucketEncryption", buckets, "GetEncryptionConfiguration"),
        _s3("GetBucketLifecycleConfiguration", buckets, "GetLifecycleConfiguration"),
        _s3("GetBucketPolicy", buckets),
        _s3("GetBucketTagging", buckets),
        _s3("GetPublicAccessBlock", buckets, "GetBucketPublicAccessBlock"),
        _s3("PutPublicAccessBlock", buckets, "PutBucketPublicAccessBlock"),
        _s3("PutBucketEncryption", buckets, "PutEncryptionConfiguration"),
        _s3("PutBucketPolicy", buckets),
        _s3("PutBucketLifecycleConfiguration", buckets, "PutLifecycleConfiguration"),
        _s3("PutBucketTagging", buckets),
    )


_LOOK_FOR_BUCKETS: Final = (
    _s3("HeadBucket", ("asset bucket", "model bucket", "output bucket"), "ListBucket"),
    _s3("ListObjectsV2", ("asset bucket", "output bucket"), "ListBucket"),
)
# One operation on a deployment at a time: the lock lies in the asset bucket.
_LOCK: Final = (
    _s3("GetObject", "locks"),
    _s3("PutObject", "locks"),
    _s3("DeleteObject", "locks"),
)
# The look before a deploy: it reads, and goes on without what it may not read.
_DOCTOR: Final = (
    *_calls(
        "ec2", "anything here", "DescribeAddresses", "DescribeAvailabilityZones",
        "DescribeInstanceTypeOfferings", "DescribeInstanceTypes", "DescribeInstances",
        "DescribeNatGateways", "DescribeSnapshots", "DescribeSpotPriceHistory", "DescribeSubnets",
        "DescribeVpcs", "GetSpotPlacementScores",
    ),
    *_calls("eks", "anything here", "DescribeClusterVersions"),
    *_calls("ecr", "repositories", "DescribeImages"),
    *_calls("eks", "cluster", "DescribeCluster"),
    *_calls("iam", ("roles of AWS", "roles of Identity Center"), "GetRole"),
    *_calls("iam", "whoever holds this", "SimulatePrincipalPolicy"),
    *_calls("kms", "own key", "DescribeKey", "GetKeyPolicy"),
    *_calls("lambda", "anything here", "GetAccountSettings"),
    *_calls("logs", "anything here", "DescribeLogGroups"),
    Call("service-quotas", "GetServiceQuota", ("quotas",), ("servicequotas:GetServiceQuota",)),
    Call(
        "service-quotas", "GetAWSDefaultServiceQuota", ("anything here",),
        ("servicequotas:GetAWSDefaultServiceQuota",),
    ),
    *_calls("ssm", "bottlerocket images", "GetParameters"),
    _s3("ListBuckets", "anything", "ListAllMyBuckets"),
    _s3("ListObjectsV2", "model bucket", "ListBucket"),
)  # fmt: skip
_DEPLOY: Final = (
    *_WHO,
    *_READ_STACKS,
    # Tags go with the change set.
    Call(
        "cloudformation", "CreateChangeSet", ("stacks",),
        ("cloudformation:CreateChangeSet", "cloudformation:TagResource"),
    ),
    *_calls(
        "cloudformation", "stacks", "GetTemplate", "DescribeChangeSet", "ExecuteChangeSet",
        "DeleteChangeSet", "ContinueUpdateRollback", "DeleteStack", "UpdateTerminationProtection",
    ),
    *_calls("iam", "spot role", "CreateServiceLinkedRole"),
    *_LOOK_FOR_BUCKETS,
    *_made_safe("created buckets"),
    _s3("PutObject", "asset objects"),
    *_LOCK,
    *_DOCTOR,
)  # fmt: skip
# What is left at the end, and what it costs.
INVENTORY: Final = (
    *_calls(
        "ec2", "anything here", "DescribeAddresses", "DescribeInstances", "DescribeNatGateways",
        "DescribeSnapshots", "DescribeSpotPriceHistory", "DescribeTags", "DescribeVolumes",
        "DescribeVpcEndpoints",
    ),
    *_calls("iam", "anything", "ListRoles"),
    *_calls("logs", "anything here", "DescribeLogGroups"),
    *_calls("pricing", "anything", "GetProducts"),
    _s3("ListBuckets", "anything", "ListAllMyBuckets"),
    Call("resourcegroupstaggingapi", "GetResources", ("anything here",), ("tag:GetResources",)),
)  # fmt: skip
# What runs in the cluster, and what Karpenter started and left: looked for in every teardown, there in some.
NODES: Final = (
    *_calls("eks", "cluster", "DescribeCluster", "ListNodegroups", "UpdateClusterConfig"),
    *_calls("eks", "node groups", "DeleteNodegroup"),
    *_calls(
        "ec2", "anything here", "DescribeInstances", "DescribeLaunchTemplates", "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
    ),
    *_calls("ec2", "own nodes", "TerminateInstances"),
    *_calls("ec2", "own launch templates", "DeleteLaunchTemplate"),
    *_calls("ec2", "own interfaces", "DeleteNetworkInterface"),
    *_calls("ec2", "own snapshot", "DeleteSnapshot"),
    *_calls("iam", "anything", "ListInstanceProfiles"),
    *_calls(
        "iam", "node profiles", "GetInstanceProfile", "RemoveRoleFromInstanceProfile",
        "DeleteInstanceProfile",
    ),
    *_calls("logs", "own log groups", "DeleteLogGroup"),
    *_calls("dynamodb", "task table", "DescribeTable"),
    *_calls("cloudformation", "stacks", "ListStackResources", "UpdateTerminationProtection"),
    _s3("GetBucketTagging", ("asset bucket", "output bucket", "model bucket")),
)  # fmt: skip
_DESTROY: Final = (
    *_WHO,
    *_READ_STACKS,
    *_calls("cloudformation", "stacks", "DeleteStack"),
    *_LOOK_FOR_BUCKETS,
    _s3("ListObjectsV2", "model bucket", "ListBucket"),
    _s3("ListObjectVersions", ("asset bucket", "output bucket"), "ListBucketVersions"),
    _s3("DeleteObjects", ("asset objects", "locks"), "DeleteObject", "DeleteObjectVersion"),
    *_LOCK,
    # The output bucket goes only when it is empty: S3 itself refuses otherwise.
    _s3("DeleteBucket", ("asset bucket", "output bucket")),
    *NODES,
    *INVENTORY,
)
_SUBMIT: Final = (
    # Where no deploy left a record: the deployment is found by its name.
    *_calls("cloudformation", "anything here", "DescribeStacks"),
    *_calls("ssm", "runtimes", "GetParametersByPath"),
    *_calls("sns", "input topic", "Publish"),
    # Whether a model that was missing at the end of the deploy has come since.
    _s3("ListObjectsV2", "model bucket", "ListBucket"),
    Call("apigateway", "GetApiKey", ("api key",), ("apigateway:GET",)),
)
_MODELS: Final = (
    *_WHO,
    # Which deployments use a bucket, and which runtimes a model.
    *_calls("cloudformation", "anything here", "DescribeStacks"),
    *_calls("ssm", "runtimes", "GetParametersByPath"),
    _s3("ListBuckets", "anything", "ListAllMyBuckets"),
    *_made_safe("model bucket"),
    _s3("ListObjectsV2", "model bucket", "ListBucket"),
    _s3("HeadObject", "models", "GetObject"),
    _s3("GetObject", "models"),
    _s3("PutObject", "models"),
    _s3("CopyObject", "models", "GetObject", "PutObject"),
    _s3("CreateMultipartUpload", "models", "PutObject"),
    _s3("UploadPart", "models", "PutObject"),
    _s3("UploadPartCopy", "models", "GetObject", "PutObject"),
    _s3("CompleteMultipartUpload", "models", "PutObject"),
    _s3("AbortMultipartUpload", "models"),
    _s3("ListParts", "models", "ListMultipartUploadParts"),
    _s3("DeleteObject", "models"),
)
_SNAPSHOT: Final = (
    *_WHO,
    *_calls("ssm", "bottlerocket images", "GetParameter"),
    Call("iam", "CreateRole", ("builder roles",), ("iam:CreateRole", "iam:TagRole")),
    *_calls("iam", "builder roles", "DeleteRole", "GetRole"),
    *_calls("iam", "builder policies", "AttachRolePolicy", "DetachRolePolicy"),
    Call(
        "iam", "CreateInstanceProfile", ("builder profiles",),
        ("iam:CreateInstanceProfile", "iam:TagInstanceProfile"),
    ),
    *_calls(
        "iam", "builder profiles", "AddRoleToInstanceProfile", "DeleteInstanceProfile",
        "GetInstanceProfile", "RemoveRoleFromInstanceProfile",
    ),
    Call("ec2", "RunInstances", ("builder",), ("ec2:RunInstances",)),
    Call("ec2", "RunInstances", ("builder's surroundings",), ("ec2:RunInstances",)),
    Call("ec2", "RunInstances", ("builder role to pass",), ("iam:PassRole",)),
    Call("ec2", "RunInstances", ("tags of the new",), ("ec2:CreateTags",)),
    *_calls("ec2", "own builder", "StopInstances", "TerminateInstances"),
    *_calls("ec2", ("own volume", "new snapshot"), "CreateSnapshot"),
    # The key of the volume, by which EBS encrypts what is written and what is copied from it.
    # https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html
    Call(
        "ec2", "RunInstances", ("own key",),
        ("kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext",
         "kms:ReEncryptFrom", "kms:ReEncryptTo"),
    ),
    *_calls("ec2", ("own snapshot", "new copy"), "CopySnapshot"),
    *_calls("ec2", "own snapshot", "CreateTags"),
    *_calls(
        "ec2", "own snapshots anywhere", "DeleteSnapshot", "DisableFastSnapshotRestores",
        "EnableFastSnapshotRestores",
    ),
    *_calls("ec2", "anything here", "DescribeFastSnapshotRestores", "DescribeInstances"),
    # Of other regions too, where copies are made.
    *_calls("ec2", "anything", "DescribeSnapshots"),
    *_calls("kms", "own key", "DescribeKey"),
    *_calls("eks", "anything here", "DescribeClusterVersions"),
    *_calls("eks", "cluster", "DescribeCluster"),
    *_calls("pricing", "anything", "GetProducts"),
    *_calls("ssm", ("shell document", "own builder by ssm"), "SendCommand"),
    *_calls("ssm", "anything here", "DescribeInstanceInformation", "GetCommandInvocation"),
    *_calls("ecr", "anything here", "GetAuthorizationToken"),
)  # fmt: skip
_IMAGES: Final = (
    *_WHO,
    Call("ecr", "CreateRepository", ("repositories",), ("ecr:CreateRepository", "ecr:TagResource")),
    Call("ecr", "CreateRepository", ("own key",), ("kms:CreateGrant", "kms:DescribeKey")),
    *_calls("ecr", "repositories", "PutLifecyclePolicy"),
    *_calls("ecr", "anything here", "GetAuthorizationToken"),
    # What the token is good for: the registry's own protocol.
    # https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html
    Call(
        "ecr", "GetAuthorizationToken", ("repositories",),
        ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload",
         "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart"),
    ),
)  # fmt: skip
CALLS: Final[Mapping[Purpose, tuple[Call, ...]]] = {
    "deploy": _DEPLOY,
    "submit": _SUBMIT,
    "destroy": _DESTROY,
    "snapshot": _SNAPSHOT,
    "models": _MODELS,
    "images": _IMAGES,
}
