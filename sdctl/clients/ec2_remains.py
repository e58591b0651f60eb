"""EC2 for a teardown: what Karpenter started and what it left behind, found by its tags, and its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import AwsError, NotFoundError

# https://karpenter.sh/docs/concepts/nodepools/#well-known-labels and
# https://github.com/aws/karpenter-provider-aws/blob/main/pkg/apis/v1/labels.go
NODE_POOL_TAG: Final = "karpenter.sh/nodepool"
LAUNCH_TEMPLATE_TAG: Final = "karpenter.k8s.aws/cluster"
# The VPC CNI's: https://github.com/aws/amazon-vpc-cni-k8s#cluster_name
INTERFACE_TAG: Final = "cluster.k8s.amazonaws.com/name"
_GONE: Final = "terminated"
# It was taken into use between the listing and the deletion.
_IN_USE_CODES: Final = frozenset({"InvalidParameterValue", "InvalidNetworkInterface.InUse"})
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html
_BATCH: Final = 100


def owned_tag(cluster: str) -> str:
    """Return the tag, with the value `owned`, of what belongs to a cluster's nodes."""
    return f"kubernetes.io/cluster/{cluster}"


@dataclass(frozen=True, slots=True)
class NodeInstance:
    """An instance that Karpenter started and that is not terminated; `state` is EC2's word."""

    id: str
    type: str
    state: str

    @property
    def is_ending(self) -> bool:
        """Whether its end has begun."""
        return self.state == "shutting-down"


@dataclass(frozen=True, slots=True)
class OwnSnapshot:
    """A snapshot of this account, and its tags."""

    id: str
    size_gib: int
    tags: Mapping[str, str]


class Ec2Remains:
    """The calls that a teardown makes, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    @property
    def _client(self) -> Any:
        return self._aws.client("ec2")

    def _pages(self, operation: str, key: str, filters: Mapping[str, str], **more: Any) -> Iterator[Any]:
        wanted = [{"Name": name, "Values": [value]} for name, value in filters.items()]
        for page in self._client.get_paginator(operation).paginate(Filters=wanted, **more):
            yield from page[key]

    def node_instances(self, cluster: str) -> tuple[NodeInstance, ...]:
        """Return the instances that Karpenter started for a cluster and that are not terminated."""
        filters = {f"tag:{owned_tag(cluster)}": "owned", "tag-key": NODE_POOL_TAG}
        with aws_errors(f"list the nodes of {cluster}"):
            found = [
                NodeInstance(one["InstanceId"], one["InstanceType"], one["State"]["Name"])
                for reservation in self._pages("describe_instances", "Reservations", filters)
                for one in reservation["Instances"]
            ]
        return tuple(one for one in found if one.state != _GONE)

    def terminate(self, ids: Iterable[str]) -> None:
        """Begin the end of instances."""
        listed = list(ids)
        for start in range(0, len(listed), _BATCH):
            with aws_errors("terminate the nodes"):
                self._client.terminate_instances(InstanceIds=listed[start : start + _BATCH])

    def launch_templates(self, cluster: str) -> tuple[str, ...]:
        """Return the ids of the launch templates that Karpenter made for a cluster."""
        filters = {f"tag:{LAUNCH_TEMPLATE_TAG}": cluster}
        with aws_errors(f"list the launch templates of {cluster}"):
            found = self._pages("describe_launch_templates", "LaunchTemplates", filters)
            return tuple(one["LaunchTemplateId"] for one in found)

    def delete_launch_template(self, template_id: str) -> None:
        """Delete a launch template; one that is gone is deleted already."""
        with suppress(NotFoundError), aws_errors(f"delete the launch template {template_id}"):
            self._client.delete_launch_template(LaunchTemplateId=template_id)

    def idle_interfaces(self, cluster: str) -> tuple[str, ...]:
        """Return the ids of the interfaces that a cluster's nodes left and nothing uses."""
        filters = {"status": "available", f"tag:{INTERFACE_TAG}": cluster}
        with aws_errors("list the idle network interfaces"):
            found = self._pages("describe_network_interfaces", "NetworkInterfaces", filters)
            return tuple(one["NetworkInterfaceId"] for one in found)

    def delete_interface(self, interface_id: str) -> None:
        """Delete a network interface, unless it is gone, or something uses it by now."""
        try:
            with suppress(NotFoundError), aws_errors(f"delete the network interface {interface_id}"):
                self._client.delete_network_interface(NetworkInterfaceId=interface_id)
        except AwsError as error:
            if error.aws_code not in _IN_USE_CODES:
                raise

    def obstacles(self, vpc_id: str) -> tuple[str, ...]:
        """Name what holds a VPC: its security groups but for the default one, and its interfaces."""
        of_vpc = {"vpc-id": vpc_id}
        with aws_errors(f"list what is in {vpc_id}"):
            groups = self._pages("describe_security_groups", "SecurityGroups", of_vpc)
            found = [
                f"security group {one['GroupId']} ({one['GroupName']})"
                for one in groups
                if one["GroupName"] != "default"
            ]
            interfaces = self._pages("describe_network_interfaces", "NetworkInterfaces", of_vpc)
            found += [
                f"network interface {one['NetworkInterfaceId']} ({one.get('Description') or one['Status']})"
                for one in interfaces
            ]
        return tuple(found)

    def snapshots(self, ids: Iterable[str] = (), *, tag: tuple[str, str] | None = None) -> list[OwnSnapshot]:
        """Return this account's snapshots, by id or by tag; those that do not exist are left out."""
        name, values = (f"tag:{tag[0]}", [tag[1]]) if tag else ("snapshot-id", list(ids))
        wanted = [{"Name": name, "Values": values}]
        with aws_errors("list the snapshots"):
            pages = self._client.get_paginator("describe_snapshots").paginate(
                OwnerIds=["self"], Filters=wanted
            )
            found = [one for page in pages for one in page["Snapshots"]]
        return [
            OwnSnapshot(
                one["SnapshotId"],
                int(one["VolumeSize"]),
                {tag["Key"]: tag["Value"] for tag in one.get("Tags", ())},
            )
            for one in found
        ]

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot, and its fast restore with it; one that is gone is deleted already."""
        with suppress(NotFoundError), aws_errors(f"delete the snapshot {snapshot_id}"):
            self._client.delete_snapshot(SnapshotId=snapshot_id)
