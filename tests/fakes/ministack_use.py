"""What uses what in the emulator, as far as AWS refuses a deletion for it.

Touches ministack's private names: only the emulator's own process imports this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ministack.services import ec2, iam, s3

Properties = dict[str, Any]


def running() -> list[Properties]:
    return [one for one in ec2._instances.values() if one["State"]["Name"] != "terminated"]


def gateways() -> list[Properties]:
    return [one for one in ec2._nat_gateways.values() if one["State"] != "deleted"]


def users_of_group(group: str) -> Iterator[str]:
    for found in running():
        if any(one["GroupId"] == group for one in found["SecurityGroups"]):
            yield found["InstanceId"]
    for found in ec2._network_interfaces.values():
        if any(one["GroupId"] == group for one in found["Groups"]):
            yield found["NetworkInterfaceId"]


def users_of_subnet(subnet: str) -> Iterator[str]:
    yield from (one["InstanceId"] for one in running() if one["SubnetId"] == subnet)
    yield from (one["NatGatewayId"] for one in gateways() if one["SubnetId"] == subnet)
    for one in ec2._network_interfaces.values():
        if one["SubnetId"] == subnet:
            yield one["NetworkInterfaceId"]


def users_of_network(network: str) -> Iterator[str]:
    yield from (one["NatGatewayId"] for one in gateways() if one["VpcId"] == network)
    yield from (one["VpcEndpointId"] for one in ec2._vpc_endpoints.values() if one["VpcId"] == network)
    for one in ec2._network_interfaces.values():
        if one["VpcId"] == network:
            yield one["NetworkInterfaceId"]
    for found in ec2._security_groups.values():
        if found["VpcId"] == network and found["GroupName"] != "default":
            yield found["GroupId"]


def users_of_role(role: str) -> Iterator[str]:
    for one in iam._instance_profiles.values():
        if role in one.get("Roles", ()):
            yield f"the instance profile {one['InstanceProfileName']}"


def contents(bucket: str) -> list[str]:
    return list(s3._buckets.get(bucket, {}).get("objects", {}))[:1]
