"""What Karpenter's controller may do, narrowed to the nodes of one cluster.

The actions and conditions are those that Karpenter 1.14 needs, see its reference policy at
https://karpenter.sh/docs/reference/cloudformation/ , without making instance profiles: node classes name the
one of the cluster's stack, since a VPC may have no way to IAM. The cluster's name is known when this is
rendered, so that conditions can be plain objects. All of it fits the 10,240 characters of a role's inline
policies.
"""

from __future__ import annotations

from typing import Any, Final

from sdctl.render.policies import Statement, allow

SPOT_RULE: Final = "SpotInterruptionRule"
# Karpenter's events: what AWS tells of an instance before or when it goes.
INTERRUPTION_EVENTS = (
    ("HealthRule", "aws.health", "AWS Health Event"),
    (SPOT_RULE, "aws.ec2", "EC2 Spot Instance Interruption Warning"),
    ("RebalanceRule", "aws.ec2", "EC2 Instance Rebalance Recommendation"),
    ("StateChangeRule", "aws.ec2", "EC2 Instance State-change Notification"),
    ("CapacityReservationRule", "aws.ec2", "EC2 Capacity Reservation Instance Interruption Warning"),
)
# Kinds of EC2 resources that a launch makes, and that must be tagged as this cluster's.
_LAUNCHED = ("fleet", "instance", "volume", "network-interface", "launch-template", "spot-instances-request")
_LAUNCH = ["ec2:RunInstances", "ec2:CreateFleet"]


def spot_rule_name(stack_name: str) -> str:
    """Name the rule for Spot's notices: the front's alarm counts them, and must not wait for the cluster."""
    return f"{stack_name}-spot"


def _arn(text: str) -> dict[str, str]:
    return {"Fn::Sub": f"arn:${{AWS::Partition}}:{text}"}


def _ec2(kind: str, account: str = "*") -> dict[str, str]:
    return _arn(f"ec2:${{AWS::Region}}:{account}:{kind}/*")


def controller_statements(cluster_name: str, *, kms_key_arn: str | None = None) -> list[Statement]:
    """Build the statements of the controller's role.

    Args:
        cluster_name: the cluster whose nodes it starts and ends.
        kms_key_arn: the key of the nodes' volumes and snapshots, where it is not AWS's own.
    """
    owned = f"kubernetes.io/cluster/{cluster_name}"
    return [
        *_launching(owned, cluster_name),
        *_tagging_and_ending(owned, cluster_name),
        *_instance_profiles(),
        *_discovery(cluster_name),
        allow(
            ["sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"],
            [{"Fn::GetAtt": ["InterruptionQueue", "Arn"]}],
        ),
        *(_encrypted_volumes(kms_key_arn) if kms_key_arn else []),
    ]


def _encrypted_volumes(kms_key_arn: str) -> list[Statement]:
    """Let EC2, and nothing else, use the key for the volumes of what is launched.

    https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html
    """
    through_ec2 = {"kms:ViaService": {"Fn::Sub": "ec2.${AWS::Region}.${AWS::URLSuffix}"}}
    uses = ["kms:Decrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
    for_aws = {"kms:GrantIsForAWSResource": "true"}
    return [
        allow(["kms:DescribeKey"], [kms_key_arn]),
        allow(uses, [kms_key_arn], StringEquals=through_ec2),
        allow(["kms:CreateGrant"], [kms_key_arn], StringEquals=through_ec2, Bool=for_aws),
    ]


def _launching(owned: str, cluster_name: str) -> list[Statement]:
    """Start instances from anything, but make only what is tagged as this cluster's."""
    used = [_ec2(kind, "") for kind in ("image", "snapshot")]
    used += [_ec2(kind) for kind in ("security-group", "subnet", "capacity-reservation", "placement-group")]
    made = [_ec2(kind) for kind in _LAUNCHED]
    tagged = {f"aws:RequestTag/{owned}": "owned", "aws:RequestTag/eks:eks-cluster-name": cluster_name}
    by_pool = {"aws:RequestTag/karpenter.sh/nodepool": "*"}
    creating: dict[str, Any] = tagged | {
        "ec2:CreateAction": ["RunInstances", "CreateFleet", "CreateLaunchTemplate"]
    }
    return [
        allow(_LAUNCH, used),
        allow(
            _LAUNCH,
            [_ec2("launch-template")],
            StringEquals={f"aws:ResourceTag/{owned}": "owned"},
            StringLike={"aws:ResourceTag/karpenter.sh/nodepool": "*"},
        ),
        allow([*_LAUNCH, "ec2:CreateLaunchTemplate"], made, StringEquals=tagged, StringLike=by_pool),
        allow(["ec2:CreateTags"], made, StringEquals=creating, StringLike=by_pool),
    ]


def _tagging_and_ending(owned: str, cluster_name: str) -> list[Statement]:
    """Rename and end this cluster's own nodes."""
    ours: dict[str, Any] = {
        "StringEquals": {f"aws:ResourceTag/{owned}": "owned"},
        "StringLike": {"aws:ResourceTag/karpenter.sh/nodepool": "*"},
    }
    names = {"aws:TagKeys": ["eks:eks-cluster-name", "karpenter.sh/nodeclaim", "Name"]}
    return [
        allow(
            ["ec2:CreateTags"],
            [_ec2("instance")],
            **ours,
            StringEqualsIfExists={"aws:RequestTag/eks:eks-cluster-name": cluster_name},
            **{"ForAllValues:StringEquals": names},
        ),
        allow(
            ["ec2:TerminateInstances", "ec2:DeleteLaunchTemplate"],
            [_ec2("instance"), _ec2("launch-template")],
            **ours,
        ),
    ]


def _instance_profiles() -> list[Statement]:
    """Start nodes with the one instance profile that the stack makes; Karpenter makes none of its own."""
    return [
        allow(
            ["iam:PassRole"],
            [{"Fn::GetAtt": ["GpuNodeRole", "Arn"]}],
            StringEquals={"iam:PassedToService": ["ec2.amazonaws.com", "ec2.amazonaws.com.cn"]},
        ),
        allow(["iam:GetInstanceProfile"], [{"Fn::GetAtt": ["GpuInstanceProfile", "Arn"]}]),
        # It looks for profiles that it left behind; listing cannot be narrowed to a resource.
        allow(["iam:ListInstanceProfiles"], ["*"]),
    ]


def _discovery(cluster_name: str) -> list[Statement]:
    """Read what can be launched, where and for how much; these reads know no narrower resource."""
    reads = (
        "CapacityReservations", "Images", "Instances", "InstanceStatus", "InstanceTypeOfferings",
        "InstanceTypes", "LaunchTemplates", "PlacementGroups", "SecurityGroups", "SpotPriceHistory",
        "Subnets",
    )  # fmt: skip
    return [
        allow(
            [f"ec2:Describe{name}" for name in reads],
            ["*"],
            StringEquals={"aws:RequestedRegion": {"Ref": "AWS::Region"}},
        ),
        allow(["ssm:GetParameter"], [_arn("ssm:${AWS::Region}::parameter/aws/service/*")]),
        allow(["pricing:GetProducts"], ["*"]),
        allow(
            ["eks:DescribeCluster"],
            [_arn(f"eks:${{AWS::Region}}:${{AWS::AccountId}}:cluster/{cluster_name}")],
        ),
    ]
