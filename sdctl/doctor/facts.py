"""What was observed: frozen, with each thing that could not be read as an `Unknown` in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from sdctl.clients.cloudformation import StackView
from sdctl.clients.ec2 import RunningInstance, Snapshot, Subnet, Zone
from sdctl.clients.eks import Cluster
from sdctl.clients.iam import Denied, Identity
from sdctl.clients.kms import Key
from sdctl.reads import Read, Unknown
from sdctl.versions import KubernetesRelease

# What stands for everything else where it is not known whose credentials these are, if any.
NOT_READ = Unknown("AWS was not asked, since there are no usable credentials")


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """The programs that a deploy drives: the helm that it would use, if any.

    `platform` is in Go's words, as `linux-amd64`; `can_install` tells whether a pinned helm exists for it.
    """

    helm_path: Path | None
    helm_version: Read[str]
    platform: str
    can_install: bool
    runs_programs: bool = True


@dataclass(frozen=True, slots=True)
class AwsFacts:
    """What an account and a region have, as far as a deployment is concerned.

    `quotas` is by the quota's code; `stacks`, `buckets` (the region, or None where there is none) and
    `service_roles` by name, `snapshots` by id; `offers` has the zones of each instance type, `spot_prices`
    a price an hour by (type, zone), `placement_scores` 1 to 10 by zone id, `nat_gateways` a count by zone.
    `model_files` are the keys of the models folder, `images` the Kubernetes versions that the pinned
    Bottlerocket has an image for. `subnets` are those that the configuration names, as far as they exist.
    `known_regions` is what botocore knows of, empty where it was not asked.
    """

    region: str
    partition: str
    today: date
    known_regions: tuple[str, ...] = ()
    identity: Read[Identity] = NOT_READ
    zones: Read[tuple[Zone, ...]] = NOT_READ
    subnets: Read[tuple[Subnet, ...]] = NOT_READ
    vcpus: Read[Mapping[str, int]] = NOT_READ
    offers: Read[Mapping[str, frozenset[str]]] = NOT_READ
    running: Read[tuple[RunningInstance, ...]] = NOT_READ
    quotas: Mapping[str, Read[float]] = field(default_factory=dict)
    vpc_count: Read[int] = NOT_READ
    address_count: Read[int] = NOT_READ
    nat_gateways: Read[Mapping[str, int]] = NOT_READ
    bucket_count: Read[int] = NOT_READ
    concurrent_executions: Read[int] = NOT_READ
    spot_prices: Read[Mapping[tuple[str, str], float]] = NOT_READ
    placement_scores: Read[Mapping[str, int]] = NOT_READ
    calendar: Read[tuple[KubernetesRelease, ...]] = NOT_READ
    cluster: Read[Cluster | None] = NOT_READ
    stacks: Mapping[str, Read[StackView | None]] = field(default_factory=dict)
    buckets: Mapping[str, Read[str | None]] = field(default_factory=dict)
    log_groups: Read[tuple[str, ...]] = NOT_READ
    service_roles: Mapping[str, Read[bool]] = field(default_factory=dict)
    model_files: Read[frozenset[str]] = NOT_READ
    snapshots: Mapping[str, Read[Snapshot | None]] = field(default_factory=dict)
    images: Read[frozenset[str]] = NOT_READ
    agent_image: Read[bool] = NOT_READ
    kms_key: Read[Key | None] = NOT_READ
    denied: Read[tuple[Denied, ...]] = NOT_READ


@dataclass(frozen=True, slots=True)
class LocalFacts:
    """What this machine has, as far as the local target is concerned.

    `packages` maps each required package to (wanted, installed), as `("==1.5.33", "1.5.33")`; installed is
    empty where it is missing. `port` is the emulator's, None where nothing was deployed here yet.
    """

    system: str
    packages: Read[Mapping[str, tuple[str, str]]]
    home: Path
    is_home_writable: bool
    free_bytes: int
    can_listen: bool
    port: int | None = None
    is_port_free: bool = True
    is_running: bool = False
    open_files: int | None = None
    loopback: str = "127.0.0.1"
