"""Rules about headroom: room for another VPC, addresses, NAT gateways, buckets, and Lambda at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sdctl.clients.quotas import Quota
from sdctl.config.model import Config
from sdctl.doctor import needs as wanted
from sdctl.doctor.capacity import chosen_zones
from sdctl.doctor.check import Check, Topic, console
from sdctl.doctor.facts import NOT_READ, AwsFacts
from sdctl.reads import Read, Unknown

VPCS: Final = Topic("vpc-headroom", "the network stack makes a VPC of its own")
ADDRESSES: Final = Topic("address-headroom", "each NAT gateway takes an Elastic IP address")
NAT_GATEWAYS: Final = Topic("nat-headroom", "private nodes reach the internet through NAT gateways")
BUCKETS: Final = Topic("bucket-headroom", "a deployment keeps code, models and pictures in buckets")
LAMBDA: Final = Topic(
    "lambda-concurrency", "the task API runs on Lambda, which refuses what is above its limit"
)
# Code, models and pictures.
OWN_BUCKETS: Final = 3
# Caretakers that run beside the API: sweep, dead letters, unrouted.
CARETAKERS: Final = 3
# New accounts start with 10 executions at once: https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html
LAMBDA_QUOTA: Final = Quota("lambda", "L-B99A9384", "Concurrent executions")


def headroom_checks(config: Config, facts: AwsFacts) -> Iterator[Check]:
    """Judge whether what a deployment makes still fits into the account."""
    if not config.network.vpc_id:
        yield from _network(config, facts)
    has_buckets = all(isinstance(region, str) for region in facts.buckets.values()) and facts.buckets
    wants = 0 if has_buckets else OWN_BUCKETS
    yield _room(facts, BUCKETS, wanted.BUCKETS, facts.bucket_count, wants)
    yield _lambda(config, facts)


def _network(config: Config, facts: AwsFacts) -> Iterator[Check]:
    stack = facts.stacks.get(f"{config.stack_name}-network")
    if stack is not None and not isinstance(stack, Unknown):
        yield VPCS.ok("the network stack is there already")
        return
    yield _room(facts, VPCS, wanted.VPCS, facts.vpc_count, 1)
    mode = config.network.nat_mode
    if mode == "none":
        return
    yield _room(facts, ADDRESSES, wanted.ADDRESSES, facts.address_count, 1 if mode == "single" else 3)
    zones, counts = chosen_zones(config, facts), facts.nat_gateways
    if isinstance(zones, Unknown):
        yield NAT_GATEWAYS.unknown(zones)
    elif isinstance(counts, Unknown):
        yield NAT_GATEWAYS.unknown(counts)
    else:
        used = zones[:1] if mode == "single" else zones
        fullest = max((counts.get(zone.name, 0) for zone in used), default=0)
        yield _room(facts, NAT_GATEWAYS, wanted.NAT_GATEWAYS, fullest, 1)


def _room(facts: AwsFacts, topic: Topic, quota: Quota, used: Read[int], wants: int) -> Check:
    """Compare a count with its quota."""
    limit = facts.quotas.get(quota.code, NOT_READ)
    if isinstance(used, Unknown):
        return topic.unknown(used)
    if isinstance(limit, Unknown):
        return topic.unknown(limit)
    said = f"{quota.title}: {used} of {limit:g} used, {wants} wanted"
    if used + wants > limit:
        return topic.fail(said, f"remove what is not needed, or ask for more at {_page(facts, quota)}")
    return topic.ok(said)


def _lambda(config: Config, facts: AwsFacts) -> Check:
    limit = facts.concurrent_executions
    if isinstance(limit, Unknown):
        return LAMBDA.unknown(limit)
    burst = config.api.burst_limit
    said = f"{limit} executions at once; the API may burst to {burst} requests a second"
    if limit <= CARETAKERS:
        return LAMBDA.fail(said, f"ask for {burst + CARETAKERS} or more at {_page(facts, LAMBDA_QUOTA)}")
    if limit < burst + CARETAKERS:
        return LAMBDA.warn(
            f"{said}: bursts can be refused",
            f"ask for {burst + CARETAKERS} or more at {_page(facts, LAMBDA_QUOTA)}, or lower "
            "APIGW/throttle/burstLimit",
        )
    return LAMBDA.ok(said)


def _page(facts: AwsFacts, quota: Quota) -> str:
    path = f"servicequotas/home/services/{quota.service}/quotas/{quota.code}"
    return console(facts.partition, facts.region, path)
