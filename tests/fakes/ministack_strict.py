"""Where ministack is kinder than AWS: the same refusals as AWS's, and nothing that could not work.

Touches ministack's private names: only the emulator's own process imports this.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from ministack.services import ec2, eks, iam
from ministack.services.cloudformation import provisioners

from fakes import ministack_use as use

Properties = dict[str, Any]
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
MAX_INLINE_POLICY_CHARACTERS: Final = 10_240
# Add-ons without which no node becomes ready, and those whose pods need a node to become healthy.
NODE_ADDONS: Final = frozenset({"vpc-cni", "kube-proxy"})
POD_ADDONS: Final = frozenset({
    "coredns", "aws-ebs-csi-driver", "aws-mountpoint-s3-csi-driver", "amazon-cloudwatch-observability",
    "metrics-server",
})  # fmt: skip


# ---- Deletion --------------------------------------------------------------------------------------
def refuse_to_delete_what_is_used() -> None:
    """Refuse each deletion that AWS would refuse."""
    users: dict[str, tuple[str, Callable[[str, Properties], Any]]] = {
        "AWS::EC2::Subnet": ("DependencyViolation", lambda pid, _: use.users_of_subnet(pid)),
        "AWS::EC2::SecurityGroup": ("DependencyViolation", lambda pid, _: use.users_of_group(pid)),
        "AWS::EC2::VPC": ("DependencyViolation", lambda pid, _: use.users_of_network(pid)),
        "AWS::EC2::VPCGatewayAttachment": (
            "DependencyViolation: mapped public addresses",
            lambda _, properties: (
                one["NatGatewayId"] for one in use.gateways() if one["VpcId"] == properties.get("VpcId")
            ),
        ),
        "AWS::IAM::Role": ("DeleteConflict", lambda pid, _: use.users_of_role(pid)),
        "AWS::S3::Bucket": ("BucketNotEmpty", lambda pid, _: use.contents(pid)),
    }
    for resource_type, (code, used_by) in users.items():
        _guard(resource_type, code, used_by)
    handler = provisioners._RESOURCE_HANDLERS["AWS::EKS::Cluster"]
    provisioners._RESOURCE_HANDLERS["AWS::EKS::Cluster"] = handler | {"delete": _delete_cluster_resource}


def _delete_cluster_resource(physical_id: str, _: Properties) -> None:
    answer = eks._delete_cluster(physical_id)
    if answer[0] >= 400 and answer[0] != 404:
        raise ValueError(f"Cluster delete failed: {json.loads(answer[2])['message']}")


def _guard(resource_type: str, code: str, used_by: Callable[[str, Properties], Any]) -> None:
    handler = provisioners._RESOURCE_HANDLERS[resource_type]
    delete = handler["delete"]

    def guarded(physical_id: str, properties: Properties, *rest: Any) -> None:
        users = list(used_by(physical_id, properties))
        if users:
            raise ValueError(f"{resource_type} {physical_id} is used by {', '.join(users[:3])} ({code})")
        delete(physical_id, properties, *rest)

    provisioners._RESOURCE_HANDLERS[resource_type] = handler | {"delete": guarded}


# ---- Creation --------------------------------------------------------------------------------------
def refuse_to_create_what_cannot_work() -> None:
    """Refuse what would not become ready, or is too large, on AWS."""
    _precede("AWS::EKS::Nodegroup", _check_nodegroup)
    _precede("AWS::EKS::Addon", _check_addon)
    _precede("AWS::IAM::Role", _check_role)
    handler = provisioners._RESOURCE_HANDLERS["AWS::EC2::VPC"]
    provisioners._RESOURCE_HANDLERS["AWS::EC2::VPC"] = handler | {
        name: _with_block(handler[name]) for name in ("create", "update")
    }


def name_instance_profiles() -> None:
    """Let `Ref` of an instance profile be its name, as on AWS, not its ARN."""
    resource_type = "AWS::IAM::InstanceProfile"
    handler = provisioners._RESOURCE_HANDLERS[resource_type]
    create, update, delete = handler["create"], handler["update"], handler["delete"]

    def arn(name: str) -> str:
        return str(iam._instance_profiles.get(name, {}).get("Arn", ""))

    def named(made: tuple[str, Properties]) -> tuple[str, Properties]:
        return made[0].rpartition("/")[2], made[1]

    provisioners._RESOURCE_HANDLERS[resource_type] = handler | {
        "create": lambda *arguments: named(create(*arguments)),
        "update": lambda physical_id, *rest: named(update(arn(physical_id), *rest)),
        "delete": lambda physical_id, *rest: delete(arn(physical_id), *rest),
    }


def _precede(resource_type: str, check: Callable[[Properties], None]) -> None:
    handler = provisioners._RESOURCE_HANDLERS[resource_type]
    create, update = handler["create"], handler.get("update")

    def checked_create(logical_id: str, properties: Properties, stack: str) -> Any:
        check(properties)
        return create(logical_id, properties, stack)

    def checked_update(physical_id: str, old: Properties, new: Properties, *rest: Any) -> Any:
        check(new)
        return update(physical_id, old, new, *rest)

    more = {"update": checked_update} if update else {}
    provisioners._RESOURCE_HANDLERS[resource_type] = handler | {"create": checked_create} | more


def _addons(cluster: str) -> set[str]:
    return {one["addonName"] for one in eks._addons.values() if one["clusterName"] == cluster}


def _check_nodegroup(properties: Properties) -> None:
    cluster = properties["ClusterName"]
    missing = [one for one in properties.get("Subnets", ()) if one not in ec2._subnets]
    if missing:
        raise ValueError(f"subnets that do not exist: {missing} (InvalidParameterException)")
    if properties["NodeRole"].rpartition("/")[2] not in iam._roles:
        raise ValueError(f"the role {properties['NodeRole']} does not exist (InvalidParameterException)")
    template = properties.get("LaunchTemplate", {}).get("Id")
    if template and template not in ec2._launch_templates:
        raise ValueError(f"the launch template {template} does not exist")
    absent = sorted(NODE_ADDONS - _addons(cluster))
    if absent:
        raise ValueError(
            f"Instances failed to join the kubernetes cluster without {absent} (NodeCreationFailure)"
        )


def _check_addon(properties: Properties) -> None:
    cluster = properties["ClusterName"]
    has_nodes = any(key.startswith(f"{cluster}/") for key in eks._nodegroups)
    if properties["AddonName"] in POD_ADDONS and not has_nodes:
        raise ValueError(f"the add-on {properties['AddonName']} is degraded: no node (ResourceNotReady)")


def _check_role(properties: Properties) -> None:
    documents = [policy["PolicyDocument"] for policy in properties.get("Policies", ())]
    length = sum(len(json.dumps(one, separators=(",", ":"))) for one in documents)
    if length > MAX_INLINE_POLICY_CHARACTERS:
        raise ValueError(f"Maximum policy size of 10240 bytes exceeded: {length} (LimitExceeded)")


def _with_block(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*arguments: Any) -> Any:
        physical_id, attributes = make(*arguments)
        return physical_id, attributes | {"CidrBlock": ec2._vpcs[physical_id]["CidrBlock"]}

    return made
