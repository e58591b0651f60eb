"""EC2: what a region offers, what an account has in it, and what spot capacity costs there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import NotFoundError

SPOT = "spot"
ON_DEMAND = "on-demand"


@dataclass(frozen=True, slots=True)
class Zone:
    """An availability zone: its name in this account (`us-east-1a`), and its id in all (`use1-az4`)."""

    name: str
    id: str


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet of an existing network."""

    id: str
    vpc_id: str
    zone: str
    zone_id: str
    free_addresses: int


@dataclass(frozen=True, slots=True)
class RunningInstance:
    """An instance that counts against a quota; `capacity` is `spot` or `on-demand`."""

    type: str
    capacity: str
    vcpus: int
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An EBS snapshot; `state` is `completed`, `pending` or `error`."""

    id: str
    state: str
    size_gib: int
    owner: str
    is_encrypted: bool = False


class Ec2:
    """The reads that a look before a deploy makes, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    @property
    def _client(self) -> Any:
        return self._aws.client("ec2")

    def _pages(self, operation: str, **arguments: Any) -> Any:
        return self._client.get_paginator(operation).paginate(**arguments)

    def zones(self) -> tuple[Zone, ...]:
        """Return the availability zones that can be used, by name, as CloudFormation's GetAZs sees them."""
        filters = [
            {"Name": "zone-type", "Values": ["availability-zone"]},
            {"Name": "state", "Values": ["available"]},
            {"Name": "opt-in-status", "Values": ["opt-in-not-required", "opted-in"]},
        ]
        with aws_errors("list the availability zones"):
            answer = self._client.describe_availability_zones(Filters=filters)
        found = [Zone(zone["ZoneName"], zone["ZoneId"]) for zone in answer["AvailabilityZones"]]
        return tuple(sorted(found, key=lambda zone: zone.name))

    def subnets(self, ids: Sequence[str]) -> tuple[Subnet, ...]:
        """Return subnets by their ids.

        Raises:
            NotFoundError: one of them does not exist in this region.
        """
        with aws_errors("read the subnets"):
            pages = self._pages("describe_subnets", SubnetIds=list(ids))
            found = [one for page in pages for one in page["Subnets"]]
        return tuple(
            Subnet(
                id=one["SubnetId"],
                vpc_id=one["VpcId"],
                zone=one["AvailabilityZone"],
                zone_id=one.get("AvailabilityZoneId", ""),
                free_addresses=int(one.get("AvailableIpAddressCount", 0)),
            )
            for one in found
        )

    def vcpus(self, types: Sequence[str]) -> dict[str, int]:
        """Return the vCPUs of instance types; what the region does not know is left out."""
        # By filter: a name that is unknown would fail the whole call otherwise.
        filters = [{"Name": "instance-type", "Values": list(types)}]
        with aws_errors("read the instance types"):
            pages = self._pages("describe_instance_types", Filters=filters)
            found = [one for page in pages for one in page["InstanceTypes"]]
        return {one["InstanceType"]: int(one["VCpuInfo"]["DefaultVCpus"]) for one in found}

    def offers(self, types: Sequence[str]) -> dict[str, frozenset[str]]:
        """Return the zones, by name, in which each instance type is offered."""
        filters = [{"Name": "instance-type", "Values": list(types)}]
        zones: dict[str, set[str]] = {name: set() for name in types}
        with aws_errors("read where instance types are offered"):
            for page in self._pages(
                "describe_instance_type_offerings", LocationType="availability-zone", Filters=filters
            ):
                for one in page["InstanceTypeOfferings"]:
                    zones.setdefault(one["InstanceType"], set()).add(one["Location"])
        return {name: frozenset(found) for name, found in zones.items()}

    def running(self, type_patterns: Sequence[str]) -> tuple[RunningInstance, ...]:
        """Return the instances that count against quotas.

        Args:
            type_patterns: of their types, as `g*`.
        """
        filters = [
            {"Name": "instance-type", "Values": list(type_patterns)},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]
        with aws_errors("list the running instances"):
            return tuple(
                _running(one)
                for page in self._pages("describe_instances", Filters=filters)
                for reservation in page["Reservations"]
                for one in reservation["Instances"]
            )

    def vpc_count(self) -> int:
        """Count the VPCs of the region."""
        with aws_errors("list the VPCs"):
            return sum(len(page["Vpcs"]) for page in self._pages("describe_vpcs"))

    def address_count(self) -> int:
        """Count the Elastic IP addresses of the region."""
        with aws_errors("list the Elastic IP addresses"):
            return len(self._client.describe_addresses()["Addresses"])

    def nat_gateways(self) -> dict[str, int]:
        """Count the NAT gateways in each zone."""
        filters = [{"Name": "state", "Values": ["pending", "available"]}]
        with aws_errors("list the NAT gateways"):
            pages = self._pages("describe_nat_gateways", Filters=filters)
            subnets = [one["SubnetId"] for page in pages for one in page["NatGateways"] if "SubnetId" in one]
        counts: dict[str, int] = defaultdict(int)
        if subnets:
            zone_of = {one.id: one.zone for one in self.subnets(sorted(set(subnets)))}
            for subnet in subnets:
                counts[zone_of[subnet]] += 1
        return dict(counts)

    def spot_prices(self, types: Sequence[str], now: datetime | None = None) -> dict[tuple[str, str], float]:
        """Return the spot price an hour, in the account's currency, by (instance type, zone).

        Args:
            types: the instance types.
            now: when; the prices that hold at this moment are returned.
        """
        prices: dict[tuple[str, str], float] = {}
        with aws_errors("read the spot prices"):
            for page in self._pages(
                "describe_spot_price_history",
                InstanceTypes=list(types),
                ProductDescriptions=["Linux/UNIX"],
                StartTime=now or datetime.now(UTC),
            ):
                for one in page["SpotPriceHistory"]:
                    # Newest first: a later entry of the same type and zone is an older price.
                    prices.setdefault((one["InstanceType"], one["AvailabilityZone"]), float(one["SpotPrice"]))
        return prices

    def placement_scores(self, types: Sequence[str], instances: int) -> dict[str, int]:
        """Return how likely spot capacity is, from 1 to 10, by the id of the zone.

        Args:
            types: at least three: with fewer, EC2 always answers with a low score.
            instances: how many are wanted.
        """
        with aws_errors("read the spot placement scores"):
            pages = self._pages(
                "get_spot_placement_scores", InstanceTypes=list(types), TargetCapacity=instances,
                TargetCapacityUnitType="units", SingleAvailabilityZone=True, RegionNames=[self._aws.region],
            )  # fmt: skip
            found = [one for page in pages for one in page["SpotPlacementScores"]]
        return {one["AvailabilityZoneId"]: int(one["Score"]) for one in found}

    def snapshot(self, snapshot_id: str) -> Snapshot | None:
        """Return a snapshot, or None where this region has none of that id that we may see."""
        try:
            with aws_errors(f"read the snapshot {snapshot_id}"):
                one = self._client.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]
        except NotFoundError:
            return None
        return Snapshot(
            id=one["SnapshotId"],
            state=one["State"],
            size_gib=int(one["VolumeSize"]),
            owner=one["OwnerId"],
            is_encrypted=bool(one.get("Encrypted")),
        )


def _running(one: Mapping[str, Any]) -> RunningInstance:
    cpu = one.get("CpuOptions", {})
    return RunningInstance(
        type=one["InstanceType"],
        capacity=SPOT if one.get("InstanceLifecycle") == "spot" else ON_DEMAND,
        vcpus=int(cpu.get("CoreCount", 0)) * int(cpu.get("ThreadsPerCore", 1)),
        tags={tag["Key"]: tag["Value"] for tag in one.get("Tags", ())},
    )
