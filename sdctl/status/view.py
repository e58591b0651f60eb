"""Facts to the document that `status` prints, pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from sdctl import __version__
from sdctl.clients.kubernetes_objects import Pod
from sdctl.clients.queue_depth import Depth
from sdctl.inventory import PriceKey
from sdctl.prices import Charge, total
from sdctl.reads import Read, Unknown
from sdctl.status.facts import ClusterFacts, Facts

# The charts whose versions decide what goes together.
_CHARTS: Final = ("karpenter", "keda")


def document(facts: Facts, now: datetime) -> dict[str, Any]:
    """Return what is known as JSON; null stands for what is not, and `problems` says why.

    Args:
        facts: what was found.
        now: for ages.
    """
    cluster = None if isinstance(facts.cluster, Unknown) else facts.cluster
    front = facts.stacks[f"{facts.stack_name}Stack"]
    return {
        "stack_name": facts.stack_name,
        "target": "aws",
        "region": facts.region,
        "stack": front.status,
        "stacks": [
            {"name": one.name, "status": one.status, "reason": one.reason}
            for one in sorted(facts.stacks.values(), key=lambda one: one.name)
        ],
        "versions": _versions(facts, cluster),
        "runtimes": [_runtime(name, facts, cluster) for name in _names(facts)],
        "nodes": None if cluster is None else list(_nodes(cluster, now)),
        "queues": [_queue(name, facts) for name in sorted(facts.queues)],
        "unrouted": None if isinstance(facts.unrouted, Unknown) else facts.unrouted.waiting,
        "cost": _cost(facts),
        "problems": [{"part": part, "reason": found.reason} for part, found in _unknown(facts)],
    }


def _names(facts: Facts) -> list[str]:
    """Name the runtimes that the API takes tasks for, and those whose stacks are there."""
    known = () if isinstance(facts.runtimes, Unknown) else facts.runtimes
    return sorted({*known, *facts.queues})


def _type(name: str, facts: Facts) -> str | None:
    return None if isinstance(facts.runtimes, Unknown) else facts.runtimes.get(name)


def _versions(facts: Facts, cluster: ClusterFacts | None) -> dict[str, str | None]:
    releases = {} if isinstance(facts.releases, Unknown) else facts.releases
    return {
        "sdctl": __version__,
        "kubernetes": cluster.kubernetes if cluster else None,
        **{name: releases.get(name) for name in _CHARTS},
    }


def _runtime(name: str, facts: Facts, cluster: ClusterFacts | None) -> dict[str, Any]:
    workload = cluster.workloads.get(name) if cluster else None
    scaling = cluster.scalings.get(name) if cluster else None
    pods = cluster.pods.get(name, ()) if cluster else ()
    return {
        "name": name,
        "type": _type(name, facts),
        "namespace": workload.namespace if workload else None,
        "desired": workload.wanted if workload else None,
        "ready": workload.ready if workload else None,
        "minimum": scaling.minimum if scaling else None,
        "maximum": scaling.maximum if scaling else None,
        "paused": scaling.is_paused if scaling else None,
        "waits_for": waits_for(pods),
    }


def waits_for(pods: tuple[Pod, ...]) -> str | None:
    """Say what the pods that are not ready wait for, each reason once, the commonest first."""
    counts: dict[str, int] = defaultdict(int)
    for pod in pods:
        if not pod.is_ready:
            counts[pod.problem or ("its start" if pod.node else "a node")] += 1
    reasons = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return "; ".join(f"{counts[reason]} × {reason}" for reason in reasons) or None


def _nodes(cluster: ClusterFacts, now: datetime) -> Iterator[dict[str, Any]]:
    """Yield the nodes, and those that Karpenter is starting, which have no type yet."""
    for node in sorted(cluster.nodes, key=lambda node: (not node.node_pool, node.name)):
        age = (now - node.created_at).total_seconds() if node.created_at else None
        yield {
            "name": node.name, "type": node.instance_type or None, "zone": node.zone or None,
            "capacity": node.capacity or None, "pool": node.node_pool or None, "ready": node.is_ready,
            "age_seconds": None if age is None else round(age), "instance": node.instance_id or None,
        }  # fmt: skip
    there = {node.instance_id for node in cluster.nodes}
    for claim in cluster.claims:
        if claim.instance_id not in there:
            yield {
                "name": claim.name, "type": None, "zone": None, "capacity": None, "pool": claim.node_pool,
                "ready": False, "age_seconds": None, "instance": claim.instance_id or None,
            }  # fmt: skip


def _queue(name: str, facts: Facts) -> dict[str, Any]:
    depth, dead = facts.queues[name], facts.dead_letters.get(name)
    ages: Mapping[str, float] = {} if isinstance(facts.oldest_seconds, Unknown) else facts.oldest_seconds
    return {
        "runtime": name,
        "type": _type(name, facts),
        "waiting": _count(depth, "waiting"),
        "running": _count(depth, "running"),
        "oldest_seconds": ages.get(name),
        "dead_letters": _count(dead, "waiting"),
    }


def _count(depth: Read[Depth] | None, name: str) -> int | None:
    return None if depth is None or isinstance(depth, Unknown) else int(getattr(depth, name))


def _cost(facts: Facts) -> dict[str, Any] | None:
    """Add up what is paid by the hour; what has no price is named and not in the sum."""
    if isinstance(facts.machines, Unknown):
        return None
    prices = {} if isinstance(facts.prices, Unknown) else facts.prices
    quantities: dict[PriceKey, float] = defaultdict(float)
    for one in facts.machines:
        if one.priced_as:
            quantities[one.priced_as, one.spot_zone] += one.quantity
    charges = {
        key: Charge(f"{key[0]} on spot in {key[1]}" if key[1] else key[0], quantity, prices.get(key))
        for key, quantity in sorted(quantities.items())
    }
    summed = total(charges.values())
    return {
        "hourly": round(summed.hourly, 4),
        "monthly": round(summed.monthly, 2),
        "currency": summed.currency,
        "charges": [
            {
                "what": one.what, "quantity": one.quantity,
                "hourly": None if one.hourly is None else round(one.hourly, 4),
                "source": one.price.source if one.price else None,
            }
            for one in charges.values()
        ],
        "unknown": list(summed.unpriced),
    }  # fmt: skip


def _unknown(facts: Facts) -> Iterator[tuple[str, Unknown]]:
    """Yield what could not be read; a deployment without a cluster lacks nothing."""
    parts: dict[str, Any] = {
        "runtimes": facts.runtimes, "oldest message": facts.oldest_seconds, "unrouted": facts.unrouted,
        "machines": facts.machines, "prices": facts.prices,
    }  # fmt: skip
    if facts.has_cluster:
        parts |= {"cluster": facts.cluster, "releases": facts.releases}
    parts |= {f"queue of {name}": found for name, found in facts.queues.items()}
    parts |= {f"dead-letter queue of {name}": found for name, found in facts.dead_letters.items()}
    yield from ((part, found) for part, found in parts.items() if isinstance(found, Unknown))


def stack_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of stacks, without the reasons of those that are well."""
    return [
        one | {"reason": one["reason"] if "FAILED" in one["status"] or "ROLLBACK" in one["status"] else None}
        for one in found["stacks"]
    ]
