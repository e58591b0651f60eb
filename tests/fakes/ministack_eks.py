"""EKS as ministack has it not: clusters that answer, and what CloudFormation makes inside of them.

Touches ministack's private names: only the emulator's own process imports this.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ministack.services import ec2, eks, iam
from ministack.services.cloudformation import provisioners

from fakes.ministack_types import Created, Properties, done
from fakes.ministack_use import users_of_group

Answer = tuple[int, Any, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the Kubernetes API of every EKS cluster is; `authority` as EKS gives it."""

    endpoint: str
    authority: str


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
    if not list(users_of_group(group)):
        ec2._security_groups.pop(group, None)


# ---- Inside of a cluster ---------------------------------------------------------------------------
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
    body = json.loads(done(eks._create_addon(cluster, _addon(properties)), "Addon"))
    return f"{cluster}|{name}", {"Arn": body["addon"]["addonArn"]}


def _update_addon(physical_id: str, _: Properties, new: Properties, __: str) -> Created:
    cluster, name = physical_id.split("|")
    done(eks._update_addon(cluster, name, _addon(new)), "Addon")
    return physical_id, {"Arn": eks._addons[f"{cluster}/{name}"]["addonArn"]}


def _delete_addon(physical_id: str, _: Properties) -> None:
    done(eks._delete_addon(*physical_id.split("|")), "Addon")


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
    made = json.loads(done(eks._create_access_entry(cluster, body), "AccessEntry"))
    _associate(cluster, principal, properties)
    return f"{principal}|{cluster}", {"AccessEntryArn": made["accessEntry"]["accessEntryArn"]}


def _associate(cluster: str, principal: str, properties: Properties) -> None:
    for policy in properties.get("AccessPolicies", ()):
        scope = provisioners._pascal_to_camel(policy["AccessScope"])
        sent = {"policyArn": policy["PolicyArn"], "accessScope": scope}
        done(eks._associate_access_policy(cluster, principal, sent), "AccessEntry")


def _update_access_entry(physical_id: str, _: Properties, new: Properties, __: str) -> Created:
    principal, cluster = physical_id.split("|")
    _associate(cluster, principal, new)
    entry = eks._access_entries[eks._ae_key(cluster, principal)]
    return physical_id, {"AccessEntryArn": entry["accessEntryArn"]}


def _delete_access_entry(physical_id: str, _: Properties) -> None:
    principal, cluster = physical_id.split("|")
    done(eks._delete_access_entry(cluster, principal), "AccessEntry")


def _create_association(_: str, properties: Properties, __: str) -> Created:
    _role_of(properties["RoleArn"])
    body = {
        "namespace": properties["Namespace"], "serviceAccount": properties["ServiceAccount"],
        "roleArn": properties["RoleArn"], "tags": provisioners._tag_map(properties.get("Tags")),
    }  # fmt: skip
    made = json.loads(
        done(eks._create_pod_identity_association(properties["ClusterName"], body), "PodIdentityAssociation")
    )["association"]
    return made["associationArn"], {
        "AssociationArn": made["associationArn"], "AssociationId": made["associationId"],
    }  # fmt: skip


def _update_association(physical_id: str, _: Properties, new: Properties, __: str) -> Created:
    _role_of(new["RoleArn"])
    number = physical_id.rpartition("/")[2]
    sent = {"roleArn": new["RoleArn"]}
    done(eks._update_pod_identity_association(new["ClusterName"], number, sent), "PodIdentityAssociation")
    return physical_id, {"AssociationArn": physical_id, "AssociationId": number}


def _delete_association(physical_id: str, properties: Properties) -> None:
    number = physical_id.rpartition("/")[2]
    done(eks._delete_pod_identity_association(properties["ClusterName"], number), "PodIdentityAssociation")


HANDLERS = {
    "AWS::EKS::Addon": {"create": _create_addon, "update": _update_addon, "delete": _delete_addon},
    "AWS::EKS::AccessEntry": {
        "create": _create_access_entry, "update": _update_access_entry, "delete": _delete_access_entry,
    },
    "AWS::EKS::PodIdentityAssociation": {
        "create": _create_association, "update": _update_association, "delete": _delete_association,
    },
}  # fmt: skip
