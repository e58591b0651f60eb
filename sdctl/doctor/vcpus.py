"""Rules about vCPU quotas: what the nodes may ask for, against what the account is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sdctl.clients.ec2 import ON_DEMAND, SPOT, RunningInstance
from sdctl.config.model import Config
from sdctl.doctor import needs as wanted
from sdctl.doctor.check import Check, Topic, console
from sdctl.doctor.facts import NOT_READ, AwsFacts
from sdctl.doctor.needs import Family, RuntimeNeed
from sdctl.reads import Unknown

_WHY: Final = "nodes start only as far as the account's vCPU quota allows; new accounts often have 0"
_QUOTA_PAGE: Final = "servicequotas/home/services/ec2/quotas"
_SYSTEM: Final = "the system"


@dataclass(frozen=True, slots=True)
class Demand:
    """vCPUs that someone wants of one quota: for `min_nodes` at least, for `max_nodes` at most."""

    who: str
    min_nodes: int
    max_nodes: int
    smallest_vcpus: int
    largest_vcpus: int


@dataclass(frozen=True, slots=True)
class Pool:
    """One quota: of a family, for one kind of capacity."""

    family: Family
    capacity: str

    @property
    def topic(self) -> Topic:
        """What its check is called."""
        return Topic(f"quota-{self.family.key}-{self.capacity}", _WHY)


@dataclass(frozen=True, slots=True)
class QuotaRules:
    """The demands of a configuration, and the quotas that it meets."""

    config: Config
    needs: Sequence[RuntimeNeed]
    facts: AwsFacts

    def checks(self) -> Iterator[Check]:
        """Judge every quota that a node of this configuration counts against."""
        for family in wanted.families(self.config, self.needs):
            for pool in (Pool(family, ON_DEMAND), Pool(family, SPOT)):
                demands = self.demands(pool)
                if demands:
                    yield self._judge(pool, demands)
        for name in wanted.gpu_types(self.needs):
            if wanted.family_of(name) is None:
                yield Topic(f"quota-{name}", _WHY).warn(
                    f"it is not known which quota {name} counts against", self._page(_QUOTA_PAGE)
                )

    def demands(self, pool: Pool) -> list[Demand]:
        """List who wants vCPUs of a pool; a type whose size is not known counts nothing."""
        sizes = {} if isinstance(self.facts.vcpus, Unknown) else self.facts.vcpus
        found = []
        for need in self.needs:
            types = [name for name in need.instance_types if wanted.family_of(name) is pool.family]
            known = [sizes[name] for name in types if name in sizes]
            if types and pool.capacity in need.capacities:
                smallest, largest = min(known, default=0), max(known, default=0)
                nodes = need.max_replicas
                found.append(Demand(need.name, min(1, nodes), nodes, smallest, largest))
        system = self.config.cluster_components
        if pool.capacity == ON_DEMAND and wanted.family_of(system.instance_type) is pool.family:
            vcpus, nodes = sizes.get(system.instance_type, 0), system.desired_count
            found.append(Demand(_SYSTEM, nodes, nodes, vcpus, vcpus))
        return found

    def free(self, pool: Pool) -> tuple[float, float] | Unknown:
        """Return a quota, and what of it is left to this deployment, its own nodes not counted."""
        quota = self.facts.quotas.get(pool.family.quota(pool.capacity).code, NOT_READ)
        if isinstance(quota, Unknown):
            return quota
        if isinstance(self.facts.running, Unknown):
            return self.facts.running
        used = sum(
            one.vcpus
            for one in self.facts.running
            if one.capacity == pool.capacity
            and wanted.family_of(one.type) is pool.family
            and not _is_ours(one, self.config.stack_name)
        )
        return quota, quota - used

    def _judge(self, pool: Pool, demands: Sequence[Demand]) -> Check:
        free, topic = self.free(pool), pool.topic
        if isinstance(free, Unknown):
            return topic.unknown(free)
        if isinstance(self.facts.vcpus, Unknown):
            return topic.unknown(self.facts.vcpus)
        limit, left = free
        quota = pool.family.quota(pool.capacity)
        most = sum(demand.max_nodes * demand.largest_vcpus for demand in demands)
        said = f"{quota.title}: {limit:g} vCPU, {left:g} free, {most} wanted when all replicas run"
        fix = f"ask for {limit - left + most:g} vCPU at {self._page(f'{_QUOTA_PAGE}/{quota.code}')}"
        blocked = [one.who for one in demands if one.min_nodes * one.smallest_vcpus > left]
        stuck = [who for who in blocked if not self._has_other(who, pool)]
        if stuck:
            return topic.fail(f"{said}: too few for a node of {', '.join(stuck)}", fix)
        if blocked:
            return topic.warn(f"{said}: {', '.join(blocked)} can start no {pool.capacity} node", fix)
        if left < most:
            return topic.warn(f"{said}: not all can run at once", fix)
        return topic.ok(said)

    def _has_other(self, who: str, but: Pool) -> bool:
        """Tell whether a runtime can start a node against another quota, as far as is known."""
        for need in (one for one in self.needs if one.name == who):
            pools = [
                Pool(family, capacity)
                for family in wanted.families_of(need)
                for capacity in need.capacities
                if Pool(family, capacity) != but
            ]
            for pool in pools:
                free = self.free(pool)
                sizes = [one.smallest_vcpus for one in self.demands(pool) if one.who == who]
                if isinstance(free, Unknown) or any(size <= free[1] for size in sizes):
                    return True
        return False

    def _page(self, path: str) -> str:
        return console(self.facts.partition, self.facts.region, path)


def _is_ours(instance: RunningInstance, stack_name: str) -> bool:
    is_node = instance.tags.get(f"kubernetes.io/cluster/{stack_name}") == "owned"
    return is_node or instance.tags.get("sdctl:stack") == stack_name
