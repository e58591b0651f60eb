"""What is left of a deployment: everything with its tag, and what carries none but has its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sdctl import prices
from sdctl.clients.aws import Aws, aws_errors
from sdctl.clients.listed import Listed, Presence, presences
from sdctl.errors import AwsError

STACK_TAG: Final = "sdctl:stack"
# What is gone, or as good as gone: the tagging API still lists it for a while, but it costs nothing more.
_GONE: Final = frozenset({"terminated", "shutting-down", "deleted", "deleting", "failed"})


@dataclass(frozen=True, slots=True)
class Found:
    """One resource: `type` as `ec2:volume`.

    `priced_as` names its price: an instance type, or a name of `sdctl.prices`; empty where it has no price
    of its own. `quantity` is how many of that, or GiB; `spot_zone` the zone of an instance on spot capacity.
    `is_seen` is false for what only the list of tags has, which keeps what was deleted for a while.
    """

    type: str
    id: str
    priced_as: str = ""
    quantity: float = 1.0
    spot_zone: str = ""
    is_seen: bool = True


@dataclass(frozen=True, slots=True)
class _Kind:
    """How EC2 describes a kind: the operation, the key of its list, and an entry's key of the id."""

    operation: str
    key: str
    id: str


# The tagging API lists them without their state and size, and some only after a while.
_DESCRIBED: Final = {
    "ec2:instance": _Kind("describe_instances", "Reservations", "InstanceId"),
    "ec2:volume": _Kind("describe_volumes", "Volumes", "VolumeId"),
    "ec2:snapshot": _Kind("describe_snapshots", "Snapshots", "SnapshotId"),
    "ec2:natgateway": _Kind("describe_nat_gateways", "NatGateways", "NatGatewayId"),
    "ec2:vpc-endpoint": _Kind("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
    "ec2:elastic-ip": _Kind("describe_addresses", "Addresses", "AllocationId"),
}


def identified(arn: str) -> tuple[str, str]:
    """Read a resource's type and id from its ARN: `("ec2:volume", "vol-1")`, `("sqs:queue", "name")`.

    Raises:
        ValueError: it is no ARN.
    """
    parts = arn.split(":", 5)
    if len(parts) != 6 or parts[0] != "arn":
        raise ValueError(f"{arn!r} is not an ARN")
    service, rest = parts[2], parts[5].lstrip("/")
    plain = {"sqs": "queue", "sns": "topic", "s3": "bucket"}
    if service in plain:
        return f"{service}:{plain[service]}", rest
    kind, _, name = (
        rest.replace(":", "/", 1).partition("/") if ":" in rest.split("/")[0] else rest.partition("/")
    )
    if service == "cloudformation":
        name = name.partition("/")[0]  # a stack's id follows its name
    return f"{service}:{kind}", name.removesuffix(":*")


class Tagging:
    """Looks for what a deployment left, by tag and by name."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; clients are made on first use."""
        self._aws = aws

    def tagged(self, key: str, value: str, *types: str) -> Iterator[Listed]:
        """Yield what has a tag, or had it until a short while ago.

        Args:
            key: of the tag.
            value: of the tag.
            types: of resources, as `s3` or `ec2:security-group`; all, unless given.
        """
        with aws_errors(f"list what is tagged {key}"):
            pages = self._aws.client("resourcegroupstaggingapi").get_paginator("get_resources")
            for page in pages.paginate(
                TagFilters=[{"Key": key, "Values": [value]}], ResourceTypeFilters=list(types)
            ):
                for one in page["ResourceTagMappingList"]:
                    tags = {str(tag["Key"]): str(tag["Value"]) for tag in one["Tags"]}
                    yield Listed(*identified(str(one["ResourceARN"])), tags)

    def left(self, stack_name: str, *, has_cluster: bool = True) -> tuple[Found, ...]:
        """Return everything that is there of a deployment, sorted by type and id.

        Roles, groups of logs that EKS makes by itself, and buckets made beside the stacks are found by their
        names.

        Args:
            stack_name: the deployment's name.
            has_cluster: the nodes of a cluster of the name are the deployment's, by the cluster's tag.
        """
        owners = _owners(stack_name, has_cluster=has_cluster)
        found: dict[tuple[str, str], Found] = {}
        listed = [
            one
            for key, value in owners.items()
            for one in self.tagged(key, value)
            if one.type not in _DESCRIBED
        ]
        for (kind, name), presence in presences(self._aws, listed).items():
            if presence is not Presence.GONE:
                priced_as = prices.EKS_CLUSTER if kind == "eks:cluster" else ""
                found[kind, name] = Found(kind, name, priced_as, is_seen=presence is Presence.THERE)
        found |= {(one.type, one.id): one for one in self.machines(stack_name, has_cluster=has_cluster)}
        buckets = (f"arn:{self._aws.partition}:s3:::{name}" for name in self.buckets(stack_name))
        for arns in (self._roles(stack_name), self._log_groups(stack_name), buckets):
            found |= {identified(arn): Found(*identified(arn)) for arn in arns}
        return tuple(found[key] for key in sorted(found))

    def machines(self, stack_name: str, *, has_cluster: bool = True) -> tuple[Found, ...]:
        """Return what EC2 has of a deployment and is paid for by the hour or by its size.

        Args:
            stack_name: the deployment's name.
            has_cluster: the nodes of a cluster of the name are the deployment's, by the cluster's tag.
        """
        found = {
            one.id: one
            for kind in _DESCRIBED
            for key, value in _owners(stack_name, has_cluster=has_cluster).items()
            for one in self._machines(kind, key, value)
        }
        return tuple(found.values())

    def _roles(self, stack_name: str) -> Iterator[str]:
        with aws_errors("list the roles"):
            for page in self._aws.client("iam").get_paginator("list_roles").paginate():
                for role in page["Roles"]:
                    if is_named_after(stack_name, role["RoleName"]):
                        yield str(role["Arn"])

    def _log_groups(self, stack_name: str) -> Iterator[str]:
        prefixes = (
            f"/aws/eks/{stack_name}/", f"/aws/containerinsights/{stack_name}/",
            f"/aws/lambda/{stack_name}Stack-",
        )  # fmt: skip
        with aws_errors("list the log groups"):
            pages = self._aws.client("logs").get_paginator("describe_log_groups")
            for prefix in prefixes:
                for page in pages.paginate(logGroupNamePrefix=prefix):
                    yield from (str(group["arn"]).removesuffix(":*") for group in page["logGroups"])

    def buckets(self, stack_name: str) -> Iterator[str]:
        """Yield the names of the account's buckets that are named after a deployment."""
        with aws_errors("list the buckets"):
            for page in self._aws.client("s3").get_paginator("list_buckets").paginate():
                for bucket in page.get("Buckets", ()):
                    if is_named_after(stack_name, bucket["Name"]):
                        yield str(bucket["Name"])

    def bucket_owner(self, name: str) -> str:
        """Return the deployment that a bucket's tag names, empty where it has none."""
        try:
            with aws_errors(f"read the tags of the bucket {name}"):
                found = self._aws.client("s3").get_bucket_tagging(Bucket=name)["TagSet"]
        except AwsError as error:
            if error.aws_code == "NoSuchTagSet":
                return ""
            raise
        return next((str(tag["Value"]) for tag in found if tag["Key"] == STACK_TAG), "")

    def _machines(self, kind: str, key: str, value: str) -> Iterator[Found]:
        """Yield what EC2 has of a kind with a tag and is not gone."""
        how, client = _DESCRIBED[kind], self._aws.client("ec2")
        wanted = {"Filters": [{"Name": f"tag:{key}", "Values": [value]}]}
        with aws_errors(f"list what is tagged {key}"):
            for page in _pages(client, how.operation, wanted):
                for entry in _entries(page[how.key]):
                    state = entry.get("State", "")
                    if (state["Name"] if isinstance(state, dict) else state).lower() not in _GONE:
                        yield _measured(kind, str(entry[how.id]), entry)


def _owners(stack_name: str, *, has_cluster: bool) -> dict[str, str]:
    """Return the tags by which a deployment's resources are known."""
    of_cluster = {f"kubernetes.io/cluster/{stack_name}": "owned"} if has_cluster else {}
    return {STACK_TAG: stack_name} | of_cluster


def is_named_after(stack_name: str, name: str) -> bool:
    """Tell whether a name is of a deployment: of one of its stacks, or of what `deploy` makes beside them."""
    # The names of buckets are shorter than those of stacks may be.
    short = re.escape(stack_name[:32].strip("-"))
    own = rf"{re.escape(stack_name)}(stack|-cluster|-network|-runtime-.+|-snapshot)-.+"
    return re.fullmatch(rf"{own}|{short}-(assets|model-bucket)-.+", name, re.IGNORECASE) is not None


def _pages(client: Any, operation: str, wanted: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if client.can_paginate(operation):
        yield from client.get_paginator(operation).paginate(**wanted)
    else:
        yield getattr(client, operation)(**wanted)


def _entries(listed: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Instances come in reservations, everything else as it is."""
    for one in listed:
        yield from one.get("Instances", [one])


def _measured(kind: str, name: str, entry: Mapping[str, Any]) -> Found:
    """Say what a resource is paid for, and how much of it there is."""
    match kind:
        case "ec2:instance":
            is_spot = entry.get("InstanceLifecycle") == "spot"
            zone = entry.get("Placement", {}).get("AvailabilityZone", "") if is_spot else ""
            return Found(kind, name, entry["InstanceType"], spot_zone=zone)
        case "ec2:volume":
            return Found(kind, name, prices.VOLUME, float(entry["Size"]))
        case "ec2:snapshot":
            return Found(kind, name, prices.SNAPSHOT, float(entry["VolumeSize"]))
        case "ec2:natgateway":
            return Found(kind, name, prices.NAT_GATEWAY)
        case "ec2:vpc-endpoint" if entry.get("VpcEndpointType") == "Interface":
            return Found(kind, name, prices.VPC_ENDPOINT, float(len(entry.get("SubnetIds", ()))))
        case "ec2:elastic-ip":
            return Found(kind, name, prices.PUBLIC_ADDRESS)
        case _:
            return Found(kind, name)
