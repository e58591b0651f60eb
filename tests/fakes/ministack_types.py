"""What ministack's CloudFormation lacks for our templates.

They refuse what AWS refuses: properties that a type has not, and references to what is not there. Touches
ministack's private names: only the emulator's own process imports this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ministack.services import ec2
from ministack.services.cloudformation import provisioners

Properties = dict[str, Any]
Created = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Shape:
    """The properties of a type, as its page of the CloudFormation reference has them.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-template-resource-type-ref.html
    """

    required: frozenset[str]
    optional: frozenset[str]
    create_only: tuple[str, ...]


def _shape(required: str, optional: str, create_only: str) -> Shape:
    return Shape(frozenset(required.split()), frozenset(optional.split()), tuple(create_only.split()))


SHAPES: Final = {
    "AWS::EC2::EIP": _shape(
        "", "Domain Tags InstanceId NetworkBorderGroup PublicIpv4Pool Address TransferAddress IpamPoolId",
        "Domain NetworkBorderGroup TransferAddress Address IpamPoolId",
    ),
    "AWS::EC2::NatGateway": _shape(
        "", "SubnetId AllocationId ConnectivityType MaxDrainDurationSeconds Tags PrivateIpAddress VpcId",
        "SubnetId AllocationId ConnectivityType PrivateIpAddress VpcId",
    ),
    "AWS::EC2::FlowLog": _shape(
        "ResourceId ResourceType",
        "DeliverLogsPermissionArn LogDestination LogDestinationType LogFormat LogGroupName Tags TrafficType "
        "MaxAggregationInterval DestinationOptions",
        "ResourceId ResourceType DeliverLogsPermissionArn LogDestination LogDestinationType LogFormat "
        "LogGroupName TrafficType MaxAggregationInterval",
    ),
    "AWS::EKS::Addon": _shape(
        "ClusterName AddonName",
        "AddonVersion ConfigurationValues PodIdentityAssociations PreserveOnDelete ResolveConflicts "
        "ServiceAccountRoleArn Tags NamespaceConfig",
        "ClusterName AddonName",
    ),
    "AWS::EKS::AccessEntry": _shape(
        "ClusterName PrincipalArn", "AccessPolicies KubernetesGroups Tags Type Username",
        "ClusterName PrincipalArn Type",
    ),
    "AWS::EKS::PodIdentityAssociation": _shape(
        "ClusterName Namespace RoleArn ServiceAccount", "DisableSessionTags Tags TargetRoleArn Policy",
        "ClusterName Namespace ServiceAccount",
    ),
    "AWS::XRay::ResourcePolicy": _shape(
        "PolicyName PolicyDocument", "BypassPolicyLockoutCheck", "PolicyName"
    ),
    "AWS::Budgets::Budget": _shape("Budget", "NotificationsWithSubscribers ResourceTags", ""),
}  # fmt: skip
# Properties that a type known to ministack cannot change without a replacement, which it does not announce.
CREATE_ONLY: Final = {
    "AWS::EC2::RouteTable": ("VpcId",),
    "AWS::EC2::SecurityGroup": ("GroupDescription", "GroupName", "VpcId"),
    "AWS::EC2::Subnet": ("AvailabilityZone", "CidrBlock", "VpcId"),
    "AWS::EC2::SubnetRouteTableAssociation": ("SubnetId",),
    "AWS::EC2::VPC": ("CidrBlock",),
    "AWS::EC2::VPCEndpoint": ("ServiceName", "VpcEndpointType", "VpcId"),
    "AWS::EKS::Nodegroup": (
        "AmiType", "CapacityType", "ClusterName", "DiskSize", "InstanceTypes", "NodeRole", "NodegroupName",
        "RemoteAccess", "Subnets",
    ),
}  # fmt: skip
_XRAY_POLICIES: dict[str, str] = {}
_BUDGETS: dict[str, Properties] = {}


def check(resource_type: str, properties: Mapping[str, Any]) -> None:
    """Refuse properties that a type of ours has not, or lacks."""
    shape = SHAPES[resource_type]
    unknown = set(properties) - shape.required - shape.optional
    missing = shape.required - set(properties)
    if unknown or missing:
        problems = [f"extraneous key [{name}] is not permitted" for name in sorted(unknown)]
        problems += [f"required key [{name}] not found" for name in sorted(missing)]
        raise ValueError(f"Model validation failed ({', '.join(problems)})")


def done(answer: tuple[int, Any, Any], what: str) -> str:
    status, _, body = answer
    text = body.decode() if isinstance(body, bytes) else str(body)
    if status >= 400:
        raise ValueError(f"{what} failed: {text}")
    return text


def _element(body: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", body)
    if found is None:
        raise ValueError(f"the emulator's answer has no {name}")
    return found[1]


# ---- Network ---------------------------------------------------------------------------------------
def _create_address(_: str, properties: Properties, __: str) -> Created:
    body = done(ec2._allocate_address({"Domain": [properties.get("Domain", "vpc")]}), "EIP")
    allocation, address = _element(body, "allocationId"), _element(body, "publicIp")
    provisioners._ec2_apply_tags(allocation, properties)
    return address, {"AllocationId": allocation, "PublicIp": address}


def _allocation(address: str) -> str:
    return next((key for key, value in ec2._addresses.items() if value["PublicIp"] == address), "")


def _update_address(physical_id: str, old: Properties, new: Properties, _: str) -> Created:
    provisioners._ec2_apply_tags(_allocation(physical_id), new, old)
    return physical_id, {"AllocationId": _allocation(physical_id), "PublicIp": physical_id}


def _delete_address(physical_id: str, _: Properties) -> None:
    allocation = _allocation(physical_id)
    used = [one for one in _live_gateways() if one.get("AllocationId") == allocation]
    if used:
        raise ValueError(f"The address {physical_id} is in use (InvalidIPAddress.InUse)")
    if allocation:
        done(ec2._release_address({"AllocationId": [allocation]}), "EIP")


def _live_gateways() -> list[Properties]:
    return [one for one in ec2._nat_gateways.values() if one["State"] != "deleted"]


def _create_gateway(_: str, properties: Properties, __: str) -> Created:
    subnet = properties.get("SubnetId", "")
    if subnet not in ec2._subnets:
        raise ValueError(f"The subnet ID '{subnet}' does not exist (InvalidSubnetID.NotFound)")
    if properties.get("ConnectivityType", "public") == "public":
        if properties.get("AllocationId") not in ec2._addresses:
            raise ValueError("The allocation does not exist (InvalidAllocationID.NotFound)")
        network = ec2._subnets[subnet]["VpcId"]
        if not _attached(network):
            raise ValueError(f"Network {network} has no Internet gateway attached (Gateway.NotAttached)")
    sent = {k: [v] for k, v in properties.items() if k in ("SubnetId", "AllocationId", "ConnectivityType")}
    gateway = _element(done(ec2._create_nat_gateway(sent), "NatGateway"), "natGatewayId")
    provisioners._ec2_apply_tags(gateway, properties)
    return gateway, {"NatGatewayId": gateway}


def _attached(network: str) -> bool:
    return any(
        attachment.get("VpcId") == network
        for gateway in ec2._internet_gateways.values()
        for attachment in gateway.get("Attachments", ())
    )


def _update_tags(attribute: str) -> Callable[[str, Properties, Properties, str], Created]:
    def update(physical_id: str, old: Properties, new: Properties, _: str) -> Created:
        provisioners._ec2_apply_tags(physical_id, new, old)
        return physical_id, {attribute: physical_id}

    return update


def _delete_gateway(physical_id: str, _: Properties) -> None:
    done(ec2._delete_nat_gateway({"NatGatewayId": [physical_id]}), "NatGateway")


def _create_flow_log(_: str, properties: Properties, __: str) -> Created:
    if properties["ResourceId"] not in ec2._vpcs:
        raise ValueError(f"The vpc '{properties['ResourceId']}' does not exist")
    sent = {name: [str(value)] for name, value in properties.items() if name not in ("ResourceId", "Tags")}
    sent["ResourceId.1"] = [properties["ResourceId"]]
    found = _element(done(ec2._create_flow_logs(sent), "FlowLog"), "item")
    provisioners._ec2_apply_tags(found, properties)
    return found, {"Id": found}


def _delete_flow_log(physical_id: str, _: Properties) -> None:
    done(ec2._delete_flow_logs({"FlowLogId.1": [physical_id]}), "FlowLog")


# ---- Others ----------------------------------------------------------------------------------------
def _put_trace_policy(properties: Properties) -> Created:
    json.loads(properties["PolicyDocument"])
    _XRAY_POLICIES[properties["PolicyName"]] = properties["PolicyDocument"]
    return properties["PolicyName"], {}


def _put_budget(physical_id: str, properties: Properties) -> Created:
    limit = properties["Budget"]["BudgetLimit"]
    float(limit["Amount"])
    _BUDGETS[physical_id] = properties
    return physical_id, {}


def _handlers() -> dict[str, Mapping[str, Any]]:
    return {
        "AWS::EC2::EIP": {"create": _create_address, "update": _update_address, "delete": _delete_address},
        "AWS::EC2::NatGateway": {
            "create": _create_gateway, "update": _update_tags("NatGatewayId"), "delete": _delete_gateway,
        },
        "AWS::EC2::FlowLog": {
            "create": _create_flow_log, "update": _update_tags("Id"), "delete": _delete_flow_log,
        },
        "AWS::XRay::ResourcePolicy": {
            "create": lambda _, properties, __: _put_trace_policy(properties),
            "update": lambda _, __, new, ___: _put_trace_policy(new),
            "delete": lambda physical_id, _: _XRAY_POLICIES.pop(physical_id, None),
        },
        "AWS::Budgets::Budget": {
            "create": lambda _, properties, __: _put_budget(properties["Budget"]["BudgetName"], properties),
            "update": lambda physical_id, _, new, __: _put_budget(physical_id, new),
            "delete": lambda physical_id, _: _BUDGETS.pop(physical_id, None),
        },
    }  # fmt: skip


def add_types(more: Mapping[str, Mapping[str, Any]]) -> None:
    """Teach the emulator the types that it lacks, and what cannot be changed in place.

    Args:
        more: handlers of further types of `SHAPES`.
    """
    provisioners._REPLACING_PROPERTIES.update(CREATE_ONLY)
    for resource_type, handler in (_handlers() | dict(more)).items():
        shape = SHAPES[resource_type]
        provisioners._RESOURCE_HANDLERS[resource_type] = _checked(resource_type, handler)
        if shape.create_only:
            provisioners._REPLACING_PROPERTIES[resource_type] = shape.create_only
        if "Tags" in shape.optional:
            provisioners._STACK_TAG_PROPERTY[resource_type] = ("Tags", "list")


def _checked(resource_type: str, handler: Mapping[str, Any]) -> dict[str, Any]:
    create, update = handler["create"], handler["update"]

    def checked_create(logical_id: str, properties: Properties, stack: str) -> Created:
        check(resource_type, properties)
        made: Created = create(logical_id, properties, stack)
        return made

    def checked_update(physical_id: str, old: Properties, new: Properties, stack: str) -> Created:
        check(resource_type, new)
        made: Created = update(physical_id, old, new, stack)
        return made

    return {"create": checked_create, "update": checked_update, "delete": handler["delete"]}
