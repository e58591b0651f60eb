"""Where ministack is kinder than AWS: the same refusals as AWS's, an EKS cluster that answers, and faults.

Touches ministack's private names: only the emulator's own process imports this.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from ministack.services import ec2, eks, iam, s3
from ministack.services.cloudformation import provisioners, stacks

Properties = dict[str, Any]
Answer = tuple[int, Any, Any]
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
MAX_INLINE_POLICY_CHARACTERS: Final = 10_240
# Add-ons without which no node becomes ready, and those whose pods need a node to become healthy.
NODE_ADDONS: Final = frozenset({"vpc-cni", "kube-proxy"})
POD_ADDONS: Final = frozenset({
    "coredns", "aws-ebs-csi-driver", "aws-mountpoint-s3-csi-driver", "amazon-cloudwatch-observability",
    "metrics-server",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the Kubernetes API of every EKS cluster is; `authority` as EKS gives it."""

    endpoint: str
    authority: str


# ---- EKS -------------------------------------------------------------------------------------------
def give_clusters_an_address(cluster: Cluster) -> None:
    """Let each EKS cluster have the given address, its security group and its network interfaces."""
    create, delete = eks._create_cluster, eks._delete_cluster

    def create_cluster(body: Properties, creator_arn: str | None = None) -> Answer:
        subnets = body.get("resourcesVpcConfig", {}).get("subnetIds", [])
        missing = [one for one in subnets if one not in ec2._subnets]
        zones = {ec2._subnets[one]["AvailabilityZone"] for one in subnets if one not in missing}
        if missing or len(zones) < 2:
            reason = f"subnets that do not exist: {missing}" if missing else "subnets of fewer than two zones"
            return eks._error(400, "InvalidParameterException", reason)  # type: ignore[no-any-return]
        if body["roleArn"].rpartition("/")[2] not in iam._roles:
            return eks._error(400, "InvalidParameterException", "the role does not exist")  # type: ignore[no-any-return]
        answer: Answer = create(body, creator_arn)
        if answer[0] < 400:
            _equip(eks._clusters[body["name"]], subnets, cluster)
        return answer

    def delete_cluster(name: str) -> Answer:
        if any(key.startswith(f"{name}/") for key in eks._nodegroups):
            return eks._error(409, "ResourceInUseException", "Cluster has nodegroups attached")  # type: ignore[no-any-return]
        found = eks._clusters.get(name)
        if found and found.get("deletionProtection"):
            return eks._error(400, "InvalidRequestException", "deletion protection is enabled")  # type: ignore[no-any-return]
        answer: Answer = delete(name)
        if answer[0] < 400:
            _strip(found)
        return answer

    eks._create_cluster, eks._delete_cluster = create_cluster, delete_cluster


def _equip(record: Properties, subnets: list[str], cluster: Cluster) -> None:
    record["endpoint"] = cluster.endpoint
    record["certificateAuthority"]["data"] = cluster.authority
    network = ec2._subnets[subnets[0]]["VpcId"]
    group = record["resourcesVpcConfig"]["clusterSecurityGroupId"]
    record["resourcesVpcConfig"]["vpcId"] = network
    ec2._security_groups[group] = {
        "GroupId": group, "GroupName": f"eks-cluster-sg-{record['name']}", "Description": "EKS created",
        "VpcId": network, "OwnerId": eks.get_account_id(), "IpPermissions": [], "IpPermissionsEgress": [],
    }  # fmt: skip
    for subnet in subnets[:2]:
        ec2._create_network_interface({
            "SubnetId": [subnet], "Description": [f"Amazon EKS {record['name']}"],
            "SecurityGroupId.1": [group],
        })  # fmt: skip
    for one in _interfaces(f"Amazon EKS {record['name']}"):
        one["Status"] = "in-use"


def _interfaces(description: str) -> list[Properties]:
    return [one for one in ec2._network_interfaces.values() if one["Description"] == description]


def _strip(record: Properties) -> None:
    """EKS removes its interfaces, and its security group unless something else uses it still."""
    for one in _interfaces(f"Amazon EKS {record['name']}"):
        del ec2._network_interfaces[one["NetworkInterfaceId"]]
    group = record["resourcesVpcConfig"]["clusterSecurityGroupId"]
    if not list(_users_of_group(group)):
        ec2._security_groups.pop(group, None)


# ---- What uses what --------------------------------------------------------------------------------
def _running() -> list[Properties]:
    return [one for one in ec2._instances.values() if one["State"]["Name"] != "terminated"]


def _gateways() -> list[Properties]:
    return [one for one in ec2._nat_gateways.values() if one["State"] != "deleted"]


def _users_of_group(group: str) -> Iterator[str]:
    for found in _running():
        if any(one["GroupId"] == group for one in found["SecurityGroups"]):
            yield found["InstanceId"]
    for found in ec2._network_interfaces.values():
        if any(one["GroupId"] == group for one in found["Groups"]):
            yield found["NetworkInterfaceId"]


def _users_of_subnet(subnet: str) -> Iterator[str]:
    yield from (one["InstanceId"] for one in _running() if one["SubnetId"] == subnet)
    yield from (one["NatGatewayId"] for one in _gateways() if one["SubnetId"] == subnet)
    for one in ec2._network_interfaces.values():
        if one["SubnetId"] == subnet:
            yield one["NetworkInterfaceId"]


def _users_of_network(network: str) -> Iterator[str]:
    yield from (one["NatGatewayId"] for one in _gateways() if one["VpcId"] == network)
    yield from (one["VpcEndpointId"] for one in ec2._vpc_endpoints.values() if one["VpcId"] == network)
    for one in ec2._network_interfaces.values():
        if one["VpcId"] == network:
            yield one["NetworkInterfaceId"]
    for found in ec2._security_groups.values():
        if found["VpcId"] == network and found["GroupName"] != "default":
            yield found["GroupId"]


def _users_of_role(role: str) -> Iterator[str]:
    for one in iam._instance_profiles.values():
        if role in one.get("Roles", ()):
            yield f"the instance profile {one['InstanceProfileName']}"


def _contents(bucket: str) -> list[str]:
    return list(s3._buckets.get(bucket, {}).get("objects", {}))[:1]


def refuse_to_delete_what_is_used() -> None:
    """Refuse each deletion that AWS would refuse."""
    users: dict[str, tuple[str, Callable[[str, Properties], Any]]] = {
        "AWS::EC2::Subnet": ("DependencyViolation", lambda pid, _: _users_of_subnet(pid)),
        "AWS::EC2::SecurityGroup": ("DependencyViolation", lambda pid, _: _users_of_group(pid)),
        "AWS::EC2::VPC": ("DependencyViolation", lambda pid, _: _users_of_network(pid)),
        "AWS::EC2::VPCGatewayAttachment": (
            "DependencyViolation: mapped public addresses",
            lambda _, properties: (
                one["NatGatewayId"] for one in _gateways() if one["VpcId"] == properties.get("VpcId")
            ),
        ),
        "AWS::IAM::Role": ("DeleteConflict", lambda pid, _: _users_of_role(pid)),
        "AWS::S3::Bucket": ("BucketNotEmpty", lambda pid, _: _contents(pid)),
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


# ---- Answers ---------------------------------------------------------------------------------------
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_aws-services-that-work-with-iam.html
SERVICE_ROLES: Final = {
    "eks.amazonaws.com": "AWSServiceRoleForAmazonEKS",
    "eks-nodegroup.amazonaws.com": "AWSServiceRoleForAmazonEKSNodegroup",
    "spot.amazonaws.com": "AWSServiceRoleForEC2Spot",
}
# Filters by the key of the record that they look at.
_FILTERED: Final = {
    "vpc-id": "VpcId", "subnet-id": "SubnetId", "status": "Status", "vpc-endpoint-type": "VpcEndpointType",
}  # fmt: skip


def answer_as_aws_does() -> None:
    """Give service-linked roles their names, and look at filters that ministack ignores."""
    iam._IAM_HANDLERS["CreateServiceLinkedRole"] = _create_service_role
    for action, store, parameter in (
        ("DescribeNetworkInterfaces", ec2._network_interfaces, "NetworkInterfaceId"),
        ("DescribeVpcEndpoints", ec2._vpc_endpoints, "VpcEndpointId"),
        ("DescribeAddresses", ec2._addresses, "AllocationId"),
    ):
        ec2._ACTION_MAP[action] = _filtering(ec2._ACTION_MAP[action], store, parameter)


def _create_service_role(parameters: dict[str, list[str]]) -> Answer:
    service = parameters["AWSServiceName"][0]
    name = SERVICE_ROLES[service]
    if name in iam._roles:
        text = f"Service role name {name} has been taken in this account, please try a different suffix."
        return iam._error(400, "InvalidInput", text, ns="iam")  # type: ignore[no-any-return]
    answer: Answer = iam._create_service_linked_role(parameters)
    made = f"AWSServiceRoleFor{service.partition('.')[0].capitalize()}"
    record = iam._roles.pop(made)
    record |= {"RoleName": name, "Arn": record["Arn"].replace(made, name)}
    iam._roles[name] = record
    return answer


def _filtering(describe: Callable[[Any], Answer], store: Any, parameter: str) -> Callable[[Any], Answer]:
    def described(parameters: dict[str, list[str]]) -> Answer:
        filters = ec2._parse_filters(parameters)
        plain = {name: values for name, values in filters.items() if not name.startswith("tag")}
        if plain.keys() - _FILTERED.keys():
            raise NotImplementedError(f"filters {sorted(plain)}")
        named = ec2._parse_member_list(parameters, parameter)
        fitting = [
            name
            for name, record in store.items()
            if name in (named or [name])
            and ec2._resource_matches_tag_filters(name, filters)
            and all(record.get(_FILTERED[key]) in values for key, values in plain.items())
        ]
        if not filters:
            return describe(parameters)
        kept = {
            name: value for name, value in parameters.items() if not name.startswith((parameter, "Filter"))
        }
        return describe(kept | {f"{parameter}.{n}": [one] for n, one in enumerate(fitting or ["none"], 1)})

    return described


# ---- Faults ----------------------------------------------------------------------------------------
@dataclass(slots=True)
class ResourceFault:
    """What happens to a resource of a stack: it takes long, or fails.

    `operation` is `create`, `update` or `delete`; empty fields fit anything. `times` counts down; a
    `reason` makes it fail.
    """

    stack: str = ""
    resource: str = ""
    operation: str = ""
    reason: str = ""
    delay_seconds: float = 0.0
    times: int = 1

    def fits(self, operation: str, stack: str, resource: str) -> bool:
        return (
            self.times > 0
            and self.operation in ("", operation)
            and self.stack in ("", stack)
            and self.resource in ("", resource)
        )


FAULTS: list[ResourceFault] = []


def inject_faults() -> None:
    """Let `FAULTS` act on whatever a stack does."""
    originals = stacks._provision_resource, stacks._update_resource, stacks._delete_resource
    on_thread = stacks._runs_on_worker_thread

    def provision(resource_type: str, logical_id: str, properties: Properties, stack: str) -> Any:
        _suffer("create", stack, logical_id)
        return originals[0](resource_type, logical_id, properties, stack)

    def update(
        resource_type: str, physical_id: str, old: Properties, new: Properties, stack: str,
        logical_id: str = "", *rest: Any,
    ) -> Any:  # fmt: skip
        if old != new:
            _suffer("update", stack, logical_id)
        return originals[1](resource_type, physical_id, old, new, stack, logical_id, *rest)

    def delete(
        resource_type: str, physical_id: str, properties: Properties, stack: str = "", logical_id: str = ""
    ) -> None:
        _suffer("delete", stack, logical_id)
        originals[2](resource_type, physical_id, properties, stack, logical_id)

    def runs_on_worker_thread(resource_type: str) -> bool:
        return any(one.delay_seconds and one.times for one in FAULTS) or on_thread(resource_type)

    stacks._provision_resource, stacks._update_resource, stacks._delete_resource = provision, update, delete
    stacks._runs_on_worker_thread = runs_on_worker_thread


def _suffer(operation: str, stack: str, resource: str) -> None:
    for fault in FAULTS:
        if fault.fits(operation, stack, resource):
            fault.times -= 1
            time.sleep(fault.delay_seconds)
            if fault.reason:
                raise ValueError(fault.reason)
