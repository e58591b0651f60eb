"""What a configuration will ask of an account: pure, from the configuration and the chart's defaults."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sdctl.clients.ec2 import ON_DEMAND, SPOT
from sdctl.clients.quotas import Quota
from sdctl.config.model import Config, RuntimeConfig
from sdctl.config.rules import placed
from sdctl.deploy.planner import bucket_name
from sdctl.models.identify import CHECKPOINT_FOLDER
from sdctl.render.runtime_values import AGENT_REPOSITORY, RuntimeFacts
from sdctl.versions import BOTTLEROCKET_VERSION

# What the chart takes where neither the configuration nor its values file says otherwise.
DEFAULT_INSTANCE_TYPES: Final = ("g5.2xlarge", "g6.2xlarge")
DEFAULT_MAX_REPLICAS: Final = 20
# Where the guide keeps checkpoints in the model bucket.
MODELS_FOLDER: Final = f"{CHECKPOINT_FOLDER}/"
# Roles that AWS services make for themselves, by the service's name for `create-service-linked-role`.
SERVICE_ROLES: Final = {
    "eks.amazonaws.com": "AWSServiceRoleForAmazonEKS",
    "eks-nodegroup.amazonaws.com": "AWSServiceRoleForAmazonEKSNodegroup",
    "spot.amazonaws.com": "AWSServiceRoleForEC2Spot",
}

VPCS: Final = Quota("vpc", "L-F678F1CE", "VPCs per Region")
ADDRESSES: Final = Quota("ec2", "L-0263D0A3", "EC2-VPC Elastic IPs")
NAT_GATEWAYS: Final = Quota("vpc", "L-FE5A380F", "NAT gateways per Availability Zone")
BUCKETS: Final = Quota("s3", "L-DC2B2D3D", "General purpose buckets")


@dataclass(frozen=True, slots=True)
class Family:
    """Instance families that share a quota of vCPUs, one for each kind of capacity.

    https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
    """

    key: str
    letters: frozenset[str]
    on_demand: Quota
    spot: Quota

    def quota(self, capacity: str) -> Quota:
        """Return the quota of a kind of capacity."""
        return self.spot if capacity == SPOT else self.on_demand


FAMILIES: Final = (
    Family(
        "g",
        frozenset({"g", "gr", "vt"}),
        Quota("ec2", "L-DB2E81BA", "Running On-Demand G and VT instances"),
        Quota("ec2", "L-3819A6DF", "All G and VT Spot Instance Requests"),
    ),
    Family(
        "p",
        frozenset({"p"}),
        Quota("ec2", "L-417A185B", "Running On-Demand P instances"),
        Quota("ec2", "L-7212CCBC", "All P Spot Instance Requests"),
    ),
    Family(
        "standard",
        frozenset({"a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"}),
        Quota("ec2", "L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"),
        Quota("ec2", "L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests"),
    ),
)


@dataclass(frozen=True, slots=True)
class RuntimeNeed:
    """The nodes of one runtime: any of these types, in any of these capacities, up to so many."""

    name: str
    instance_types: tuple[str, ...]
    capacities: tuple[str, ...]
    max_replicas: int


def runtime_needs(config: Config, chart_values: Mapping[str, Any]) -> tuple[RuntimeNeed, ...]:
    """Return what each runtime may start.

    Args:
        config: the configuration.
        chart_values: the chart's own values, below those of the configuration.
    """
    return tuple(_need(runtime, chart_values) for runtime in config.runtimes)


def _need(runtime: RuntimeConfig, chart_values: Mapping[str, Any]) -> RuntimeNeed:
    def value(*path: str) -> Any:
        given = runtime.extra_value(*path)
        return _at(chart_values, path) if given is None else given

    types = value("karpenter", "provisioner", "instanceType")
    listed = [types] if isinstance(types, str) else types if isinstance(types, list) else []
    replicas = value("runtime", "scaling", "maxReplicaCount")
    capacities = [
        name
        for name, key in ((ON_DEMAND, "onDemand"), (SPOT, "spot"))
        if value("karpenter", "provisioner", "capacityType", key) in (True, None)
    ]
    return RuntimeNeed(
        name=runtime.name,
        instance_types=tuple(dict.fromkeys(str(one) for one in listed)) or DEFAULT_INSTANCE_TYPES,
        capacities=tuple(capacities),
        max_replicas=replicas
        if isinstance(replicas, int) and not isinstance(replicas, bool)
        else DEFAULT_MAX_REPLICAS,
    )


def _at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = values
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def gpu_types(needs: Iterable[RuntimeNeed]) -> tuple[str, ...]:
    """Return every instance type that a runtime may start, each once."""
    return tuple(dict.fromkeys(name for need in needs for name in need.instance_types))


def spot_types(needs: Iterable[RuntimeNeed]) -> tuple[str, ...]:
    """Return every instance type that a runtime may start on spot capacity."""
    return gpu_types(need for need in needs if SPOT in need.capacities)


def family_of(instance_type: str) -> Family | None:
    """Return the family whose quota an instance type counts against, or None where we know none."""
    match = re.match(r"[a-z]+", instance_type)
    letters = match[0] if match else ""
    return next((family for family in FAMILIES if letters in family.letters), None)


def families(config: Config, needs: Iterable[RuntimeNeed]) -> tuple[Family, ...]:
    """Return the families that the runtimes' nodes and the system's own belong to."""
    types = (*gpu_types(needs), config.cluster_components.instance_type)
    found = (family_of(name) for name in types)
    return tuple(dict.fromkeys(family for family in found if family is not None))


def quotas(config: Config, needs: Sequence[RuntimeNeed]) -> tuple[Quota, ...]:
    """Return the quotas that this configuration can hit."""
    found = [BUCKETS]
    for family in families(config, needs):
        found.append(family.on_demand)
        if any(SPOT in need.capacities and family in families_of(need) for need in needs):
            found.append(family.spot)
    if not config.network.vpc_id:
        found.append(VPCS)
        if config.network.nat_mode != "none":
            found += [ADDRESSES, NAT_GATEWAYS]
    return tuple(found)


def families_of(need: RuntimeNeed) -> tuple[Family, ...]:
    """Return the families of one runtime's instance types."""
    found = (family_of(name) for name in need.instance_types)
    return tuple(dict.fromkeys(family for family in found if family is not None))


def stack_names(config: Config) -> tuple[str, ...]:
    """Return the stacks whose names must be free or ours."""
    name = config.stack_name
    return (config.front_stack_name, f"{name}-network", f"{name}-cluster")


def bucket_names(config: Config, account: str, region: str) -> tuple[str, str]:
    """Return the names of the asset bucket and of the model bucket, configured or picked."""
    picked = (
        bucket_name(config.stack_name, purpose, account, region) for purpose in ("assets", "model-bucket")
    )
    assets, models = picked
    return assets, config.model_bucket or models


def image_parameter(kubernetes: str) -> str:
    """Return the public parameter that names the pinned Bottlerocket's image for GPU nodes.

    https://bottlerocket.dev/en/os/latest/#/install/quickstart/
    """
    return f"/aws/service/bottlerocket/aws-k8s-{kubernetes}-nvidia/x86_64/{BOTTLEROCKET_VERSION}/image_id"


def agent_image(config: Config, account: str, region: str) -> tuple[str, str]:
    """Name the registry and the repository of the queue agent's image, where a runtime takes it from ECR.

    Returns:
        Host and repository; both empty where every runtime names an image of its own, or another kind of
        registry is configured.
    """
    registry = placed(config, region, account).image_registry or RuntimeFacts(account, region, "").registry
    host, _, path = registry.partition("/")
    own = (runtime.extra_value("runtime", "queueAgent", "image") for runtime in config.runtimes)
    if ".dkr.ecr." not in host or all(own):
        return "", ""
    return host, f"{path}/{AGENT_REPOSITORY}".lstrip("/")
