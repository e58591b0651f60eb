"""Reads an account: every read in a thread of its own, with a deadline; what fails becomes an `Unknown`.

Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, Final

from sdctl import __version__
from sdctl.clients.aws import Aws
from sdctl.clients.cloudformation import CloudFormation, StackView, classify
from sdctl.clients.ec2 import Ec2, Subnet
from sdctl.clients.ecr import Ecr
from sdctl.clients.eks import Eks
from sdctl.clients.iam import Denied, Iam, Identity, Wish
from sdctl.clients.kms import Kms
from sdctl.clients.logs import Logs
from sdctl.clients.quotas import Quotas
from sdctl.clients.s3 import S3
from sdctl.clients.ssm import Ssm
from sdctl.config.model import Config
from sdctl.doctor import needs as wanted
from sdctl.doctor.facts import AwsFacts
from sdctl.doctor.needs import (
    MODELS_FOLDER,
    RuntimeNeed,
    bucket_names,
    image_parameter,
    stack_names,
)
from sdctl.errors import NotFoundError
from sdctl.reads import READ_SECONDS, Read, Unknown, read_all
from sdctl.render.cluster import cluster_log_groups
from sdctl.versions import EKS_CALENDAR

# Whose credentials these are comes first, then everything else at once: 15 seconds in all.
IDENTITY_SECONDS: Final = 6.0
# A policy has about 70 statements, IAM is far from most regions, and a client keeps ten connections.
SIMULATIONS_AT_ONCE: Final = 10
# EC2 scores a choice of fewer types as hopeless, whatever there is:
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-placement-score.html
MIN_SCORED_TYPES: Final = 3


def observe_aws(
    aws: Aws,
    config: Config,
    needs: Sequence[RuntimeNeed],
    *,
    today: date,
    wishes: Callable[[Identity], Sequence[Wish]] | None = None,
    identity_seconds: float = IDENTITY_SECONDS,
    read_seconds: float = READ_SECONDS,
) -> AwsFacts:
    """Read everything of an account that the rules judge.

    Args:
        aws: the session, best one with short timeouts.
        config: what is to be deployed.
        needs: what its runtimes may start.
        today: kept with the facts.
        wishes: tells what the caller must be allowed to do; None leaves the simulation out.
        identity_seconds: deadline of finding out who calls; without that nothing else is asked.
        read_seconds: deadline of each other read.
    """
    first = read_all(
        {
            "identity": Iam(aws).identity,
            "partition": lambda: aws.partition,
            "known_regions": lambda: aws.regions("eks"),
        },
        timeout_seconds=identity_seconds,
    )
    partition, regions = first["partition"], first["known_regions"]
    base: dict[str, Any] = {
        "region": aws.region,
        "partition": "aws" if isinstance(partition, Unknown) else partition,
        "known_regions": () if isinstance(regions, Unknown) else regions,
        "today": today,
        "identity": first["identity"],
    }
    identity = first["identity"]
    if isinstance(identity, Unknown):
        return AwsFacts(**base)
    reads = _reads(aws, config, needs, identity)
    if wishes is not None:
        reads |= simulations(Iam(aws), identity, wishes(identity))
    found = read_all(reads, timeout_seconds=read_seconds)
    grouped = _grouped(found)
    if "denied" in grouped:
        grouped["denied"] = merged_denials(grouped["denied"].values())
    return AwsFacts(**base, **grouped)


def simulations(iam: Iam, identity: Identity, wishes: Sequence[Wish]) -> dict[str, Callable[[], Any]]:
    """Split a simulation, a call a statement, into parts that run at once."""
    parts = [wishes[start::SIMULATIONS_AT_ONCE] for start in range(SIMULATIONS_AT_ONCE)]
    return {
        f"denied/{number}": partial(iam.denied, identity.principal_arn, part)
        for number, part in enumerate(parts)
        if part
    }


def merged_denials(parts: Iterable[Read[tuple[Denied, ...]]]) -> Read[tuple[Denied, ...]]:
    """Join what the parts found; where none found a denial, one that failed leaves it unknown."""
    denied: dict[str, Denied] = {}
    unknown: Unknown | None = None
    for part in parts:
        if isinstance(part, Unknown):
            unknown = unknown or part
        else:
            denied |= {one.action: one for one in part if one.is_explicit or one.action not in denied}
    if not denied and unknown is not None:
        return unknown
    return tuple(denied[action] for action in sorted(denied))


def _grouped(found: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"quotas/x": …}` into `{"quotas": {"x": …}}`."""
    grouped: dict[str, Any] = {}
    for name, value in found.items():
        group, has_key, key = name.partition("/")
        if has_key:
            grouped.setdefault(group, {})[key] = value
        else:
            grouped[name] = value
    return grouped


def _reads(
    aws: Aws, config: Config, needs: Sequence[RuntimeNeed], identity: Identity
) -> dict[str, Callable[[], Any]]:
    reads = {
        **_capacity_reads(aws, config, needs),
        **_headroom_reads(aws, config, needs),
        **_name_reads(aws, config, identity),
        **_image_reads(aws, config, identity.account),
    }
    if config.kms_key_arn:
        reads["kms_key"] = partial(Kms(aws).key, config.kms_key_arn)
    iam = Iam(aws)
    for role in wanted.SERVICE_ROLES.values():
        reads[f"service_roles/{role}"] = partial(iam.role_exists, role)
    return reads


def _capacity_reads(aws: Aws, config: Config, needs: Sequence[RuntimeNeed]) -> dict[str, Callable[[], Any]]:
    ec2 = Ec2(aws)
    gpu, spot = wanted.gpu_types(needs), wanted.spot_types(needs)
    types = tuple(dict.fromkeys((*gpu, config.cluster_components.instance_type)))
    letters = sorted(letter for family in wanted.families(config, needs) for letter in family.letters)
    reads: dict[str, Callable[[], Any]] = {
        "zones": ec2.zones,
        "vcpus": lambda: ec2.vcpus(types),
        "offers": lambda: ec2.offers(types),
        "running": lambda: ec2.running([f"{letter}*" for letter in letters]),
    }
    if config.network.subnet_ids:
        reads["subnets"] = lambda: _subnets(ec2, config.network.subnet_ids)
    if spot:
        reads["spot_prices"] = lambda: ec2.spot_prices(spot)
    if len(spot) >= MIN_SCORED_TYPES:
        instances = max(1, sum(need.max_replicas for need in needs))
        reads["placement_scores"] = lambda: ec2.placement_scores(spot, instances)
    return reads


def _subnets(ec2: Ec2, ids: Sequence[str]) -> tuple[Subnet, ...]:
    """Read each subnet by itself: one that does not exist would hide the others."""
    found: list[Subnet] = []
    for one in ids:
        try:
            found += ec2.subnets([one])
        except NotFoundError:
            continue  # the rules compare what was found with what was named
    return tuple(found)


def _headroom_reads(aws: Aws, config: Config, needs: Sequence[RuntimeNeed]) -> dict[str, Callable[[], Any]]:
    ec2, quotas = Ec2(aws), Quotas(aws)
    reads: dict[str, Callable[[], Any]] = {
        "bucket_count": quotas.bucket_count,
        "concurrent_executions": quotas.concurrent_executions,
    }
    for quota in wanted.quotas(config, needs):
        reads[f"quotas/{quota.code}"] = partial(quotas.value, quota)
    if not config.network.vpc_id:
        reads["vpc_count"] = ec2.vpc_count
        if config.network.nat_mode != "none":
            reads |= {"address_count": ec2.address_count, "nat_gateways": ec2.nat_gateways}
    return reads


def _name_reads(aws: Aws, config: Config, identity: Identity) -> dict[str, Callable[[], Any]]:
    eks, logs, s3, cloudformation = Eks(aws), Logs(aws), S3(aws), CloudFormation(aws)
    buckets = bucket_names(config, identity.account, aws.region)
    reads: dict[str, Callable[[], Any]] = {
        "calendar": eks.calendar,
        "cluster": lambda: eks.cluster(config.stack_name),
        "log_groups": lambda: logs.groups(cluster_log_groups(config.stack_name).values()),
    }
    for name in stack_names(config):
        reads[f"stacks/{name}"] = partial(_stack, cloudformation, name)
    for name in buckets:
        owner = "" if name == config.model_bucket else identity.account
        reads[f"buckets/{name}"] = partial(s3.bucket_region, name, owner=owner)
    if any(runtime.checkpoint for runtime in config.runtimes):
        reads["model_files"] = lambda: frozenset(s3.keys(buckets[1], MODELS_FOLDER))
    return reads


def _stack(cloudformation: CloudFormation, name: str) -> StackView | None:
    """Read a stack; one in a state that we do not know is an error here, not where it is judged."""
    view = cloudformation.find(name)
    if view is not None:
        classify(view.status)
    return view


def _image_reads(aws: Aws, config: Config, account: str) -> dict[str, Callable[[], Any]]:
    ec2, ssm = Ec2(aws), Ssm(aws)
    reads: dict[str, Callable[[], Any]] = {"images": lambda: _images(ssm)}
    host, repository = wanted.agent_image(config, account, aws.region)
    if repository:
        reads["agent_image"] = lambda: Ecr(aws, host).has_image(repository, __version__)
    for snapshot in dict.fromkeys(runtime.snapshot_id for runtime in config.runtimes if runtime.snapshot_id):
        reads[f"snapshots/{snapshot}"] = partial(ec2.snapshot, snapshot)
    return reads


def _images(ssm: Ssm) -> frozenset[str]:
    names = {image_parameter(release.version): release.version for release in EKS_CALENDAR}
    return frozenset(names[name] for name in ssm.parameters(list(names)))
