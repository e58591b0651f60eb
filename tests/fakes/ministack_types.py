"""What ministack's CloudFormation lacks for our templates, and where it is kinder than AWS.

Adds resource types that it does not know, gives an EKS cluster the address of a Kubernetes API that answers,
and refuses what AWS refuses: properties that a type has not, references to what is not there, and deletions
of what is still in use. Touches ministack's private names: only the emulator's own process imports this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ministack.services import ec2, eks, iam
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


def _done(answer: tuple[int, Any, Any], what: str) -> str:
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
    body = _done(ec2._allocate_address({"Domain": [properties.get("Domain", "vpc")]}), "EIP")
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
        _done(ec2._release_address({"AllocationId": [allocation]}), "EIP")


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
    gateway = _element(_done(ec2._create_nat_gateway(sent), "NatGateway"), "natGatewayId")
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
    _done(ec2._delete_nat_gateway({"NatGatewayId": [physical_id]}), "NatGateway")


def _create_flow_log(_: str, properties: Properties, __: str) -> Created:
    if properties["ResourceId"] not in ec2._vpcs:
        raise ValueError(f"The vpc '{properties['ResourceId']}' does not exist")
    sent = {name: [str(value)] for name, value in properties.items() if name not in ("ResourceId", "Tags")}
    sent["ResourceId.1"] = [properties["ResourceId"]]
    found = _element(_done(ec2._create_flow_logs(sent), "FlowLog"), "item")
    provisioners._ec2_apply_tags(found, properties)
    return found, {"Id": found}


def _delete_flow_log(physical_id: str, _: Properties) -> None:
    _done(ec2._delete_flow_logs({"FlowLogId.1": [physical_id]}), "FlowLog")


# ---- EKS -------------------------------------------------------------------------------------------
def _role_of(arn: str) -> None:
    name = arn.rpartition("/")[2]
    if ":role/" in arn and name not in iam._roles:
        raise ValueError(f"The role {arn} cannot be found (InvalidParameterException)")


def _addon(properties: Properties) -> Properties:
    associations = properties.get("PodIdentityAssociations") or []
    for one in associations:
        _role_of(one["RoleArn"])
    if properties.get("ConfigurationValues"):
        json.loads(properties["ConfigurationValues"])
    return {
        "addonName": properties["AddonName"],
        # Where the template names none, EKS picks its default.
        "addonVersion": properties.get("AddonVersion") or "v1.0.0-eksbuild.1",
        "configurationValues": properties.get("ConfigurationValues", ""),
        "serviceAccountRoleArn": properties.get("ServiceAccountRoleArn", ""),
        "podIdentityAssociations": [one["ServiceAccount"] for one in associations],
        "tags": provisioners._tag_map(properties.get("Tags")),
    }


def _create_addon(_: str, properties: Properties, __: str) -> Created:
    cluster, name = properties["ClusterName"], properties["AddonName"]
    body = json.loads(_done(eks._create_addon(cluster, _addon(properties)), "Addon"))
    return f"{cluster}|{name}", {"Arn": body["addon"]["addonArn"]}


def _update_addon(physical_id: str, _: Properties, new: Properties, __: str) -> Created:
    cluster, name = physical_id.split("|")
    _done(eks._update_addon(cluster, name, _addon(new)), "Addon")
    return physical_id, {"Arn": eks._addons[f"{cluster}/{name}"]["addonArn"]}


def _delete_addon(physical_id: str, _: Properties) -> None:
    _done(eks._delete_addon(*physical_id.split("|")), "Addon")


def _create_access_entry(_: str, properties: Properties, __: str) -> Created:
    cluster, principal = properties["ClusterName"], properties["PrincipalArn"]
    if ":assumed-role/" in principal:
        raise ValueError("principalArn must be a role or user, no session (InvalidParameterException)")
    _role_of(principal)
    body = {
        "principalArn": principal, "type": properties.get("Type", "STANDARD"),
        "kubernetesGroups": properties.get("KubernetesGroups", []),
        "username": properties.get("Username", ""),
        "tags": provisioners._tag_map(properties.get("Tags")),
    }  # fmt: skip
    made = json.loads(_done(eks._create_access_entry(cluster, body), "AccessEntry"))
    _associate(cluster, principal, properties)
    return f"{principal}|{cluster}", {"AccessEntryArn": made["accessEntry"]["accessEntryArn"]}


def _associate(cluster: str, principal: str, properties: Properties) -> None:
    for policy in properties.get("AccessPolicies", ()):
        scope = provisioners._pascal_to_camel(policy["AccessScope"])
        sent = {"policyArn": policy["PolicyArn"], "accessScope": scope}
        _done(eks._associate_access_policy(cluster, principal, sent), "AccessEntry")


def _update_access_entry(physical_id: str, _: Properties, new: Properties, __: str) -> Created:
    principal, cluster = physical_id.split("|")
    _associate(cluster, principal, new)
    entry = eks._access_entries[eks._ae_key(cluster, principal)]
    return physical_id, {"AccessEntryArn": entry["accessEntryArn"]}


def _delete_access_entry(physical_id: str, _: Properties) -> None:
    principal, cluster = physical_id.split("|")
    _done(eks._delete_access_entry(cluster, principal), "AccessEntry")


def _create_association(_: str, properties: Properties, __: str) -> Created:
    _role_of(properties["RoleArn"])
    body = {
        "namespace": properties["Namespace"], "serviceAccount": properties["ServiceAccount"],
        "roleArn": properties["RoleArn"], "tags": provisioners._tag_map(properties.get("Tags")),
    }  # fmt: skip
    made = json.loads(
        _done(eks._create_pod_identity_association(properties["ClusterName"], body), "PodIdentityAssociation")
    )["association"]
    return made["associationArn"], {
        "AssociationArn": made["associationArn"], "AssociationId": made["associationId"],
    }  # fmt: skip


def _update_association(physical_id: str, _: Properties, new: Properties, __: str) -> Created:
    _role_of(new["RoleArn"])
    number = physical_id.rpartition("/")[2]
    sent = {"roleArn": new["RoleArn"]}
    _done(eks._update_pod_identity_association(new["ClusterName"], number, sent), "PodIdentityAssociation")
    return physical_id, {"AssociationArn": physical_id, "AssociationId": number}


def _delete_association(physical_id: str, properties: Properties) -> None:
    number = physical_id.rpartition("/")[2]
    _done(eks._delete_pod_identity_association(properties["ClusterName"], number), "PodIdentityAssociation")


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


def _handlers() -> dict[str, dict[str, Any]]:
    return {
        "AWS::EC2::EIP": {"create": _create_address, "update": _update_address, "delete": _delete_address},
        "AWS::EC2::NatGateway": {
            "create": _create_gateway, "update": _update_tags("NatGatewayId"), "delete": _delete_gateway,
        },
        "AWS::EC2::FlowLog": {
            "create": _create_flow_log, "update": _update_tags("Id"), "delete": _delete_flow_log,
        },
        "AWS::EKS::Addon": {"create": _create_addon, "update": _update_addon, "delete": _delete_addon},
        "AWS::EKS::AccessEntry": {
            "create": _create_access_entry, "update": _update_access_entry, "delete": _delete_access_entry,
        },
        "AWS::EKS::PodIdentityAssociation": {
            "create": _create_association, "update": _update_association, "delete": _delete_association,
        },
        "AWS::XRay::ResourcePolicy": {
            "create": lambda _, properties, __: _put_trace_policy(properties),
            "update": lambda _, __, new, ___: _put_trace_policy(new),
            "delete": lambda physical_id, _: _XRAY_POLICIES.pop(physical_id, None),
        },
        "AWS::Budgets::Budget": {
            "create": lambda name, properties, stack: _put_budget(f"{stack}-{name}", properties),
            "update": lambda physical_id, _, new, __: _put_budget(physical_id, new),
            "delete": lambda physical_id, _: _BUDGETS.pop(physical_id, None),
        },
    }  # fmt: skip


def add_types() -> None:
    """Teach the emulator the types that it lacks, and what cannot be changed in place."""
    provisioners._REPLACING_PROPERTIES.update(CREATE_ONLY)
    for resource_type, handler in _handlers().items():
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
