"""Rules about capacity: zones, where instance types are offered, spot prices and placement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sdctl.clients.ec2 import Zone
from sdctl.config.model import Config
from sdctl.doctor import needs as wanted
from sdctl.doctor.check import Check, Topic
from sdctl.doctor.facts import NOT_READ, AwsFacts
from sdctl.doctor.needs import RuntimeNeed
from sdctl.reads import Unknown
from sdctl.render.network import MIN_ZONES, ZONE_IDS_WITHOUT_EKS, suitable_zones

ZONES: Final = Topic("zones", "the cluster and its nodes are spread over zones that EKS must support")
OFFERS: Final = Topic("instance-offers", "a node can only start in a zone that offers its instance type")
SPOT_PRICE: Final = Topic("spot-price", "spot nodes start only where spot capacity of their types is sold")
PLACEMENT: Final = Topic(
    "spot-placement", "where spot capacity is scarce, nodes start late and are taken away"
)
# EKS wants six addresses for itself in each subnet; pods take theirs from the same subnets.
MIN_FREE_ADDRESSES: Final = 64
LOW_SCORE: Final = 3


def capacity_checks(config: Config, needs: Sequence[RuntimeNeed], facts: AwsFacts) -> Iterator[Check]:
    """Judge whether the nodes that are wanted can start."""
    yield _zones(config, facts)
    yield _offers(config, needs, facts)
    if spot := wanted.spot_types(needs):
        yield _spot_price(spot, facts)
        if facts.placement_scores != NOT_READ:
            yield _placement(config, facts)


def chosen_zones(config: Config, facts: AwsFacts) -> tuple[Zone, ...] | Unknown:
    """Return the zones that nodes will be in: of the subnets named, else those that the network will have."""
    if config.network.vpc_id:
        if isinstance(facts.subnets, Unknown):
            return facts.subnets
        return tuple(dict.fromkeys(Zone(one.zone, one.zone_id) for one in facts.subnets))
    if isinstance(facts.zones, Unknown):
        return facts.zones
    names = config.network.zones or suitable_zones({zone.name: zone.id for zone in facts.zones})
    return tuple(zone for zone in facts.zones if zone.name in names)


def _zones(config: Config, facts: AwsFacts) -> Check:
    zones = chosen_zones(config, facts)
    if isinstance(zones, Unknown):
        return ZONES.unknown(zones)
    if config.network.vpc_id:
        return _subnets(config, facts, zones)
    names = ", ".join(zone.name for zone in zones)
    absent = sorted(set(config.network.zones) - {zone.name for zone in zones})
    if absent:
        return ZONES.fail(f"{facts.region} has no {', '.join(absent)} here", "correct network/zones")
    if unsupported := _unsupported(zones):
        return ZONES.fail(f"EKS does not support {', '.join(unsupported)}", "correct network/zones")
    if len(zones) < MIN_ZONES:
        return ZONES.fail(
            f"{facts.region} has {names or 'no zone'} for EKS here, not {MIN_ZONES}", "choose another region"
        )
    return ZONES.ok(names)


def _unsupported(zones: Sequence[Zone]) -> list[str]:
    return [f"{zone.name} ({zone.id})" for zone in zones if zone.id in ZONE_IDS_WITHOUT_EKS]


def _subnets(config: Config, facts: AwsFacts, zones: Sequence[Zone]) -> Check:
    subnets = () if isinstance(facts.subnets, Unknown) else facts.subnets
    missing = sorted(set(config.network.subnet_ids) - {one.id for one in subnets})
    if missing:
        return ZONES.fail(
            f"there are no subnets {', '.join(missing)} in {facts.region}", "correct network/subnetIds"
        )
    strangers = [one.id for one in subnets if one.vpc_id != config.network.vpc_id]
    if strangers:
        return ZONES.fail(
            f"{', '.join(strangers)} lie outside of {config.network.vpc_id}",
            "correct network/vpcId, or network/subnetIds",
        )
    unsupported = _unsupported(zones)
    if unsupported or len(zones) < MIN_ZONES:
        found = f"EKS does not support {', '.join(unsupported)}" if unsupported else "all lie in one zone"
        return ZONES.fail(f"of the subnets, {found}", "name private subnets in two other zones at least")
    tight = [f"{one.id} ({one.free_addresses})" for one in subnets if one.free_addresses < MIN_FREE_ADDRESSES]
    if tight:
        return ZONES.warn(
            f"few free addresses in {', '.join(tight)}", "name larger subnets: each pod takes one"
        )
    return ZONES.ok(", ".join(zone.name for zone in zones))


def _offers(config: Config, needs: Sequence[RuntimeNeed], facts: AwsFacts) -> Check:
    zones = chosen_zones(config, facts)
    if isinstance(facts.offers, Unknown):
        return OFFERS.unknown(facts.offers)
    if isinstance(zones, Unknown):
        return OFFERS.unknown(zones)
    names = {zone.name for zone in zones}
    types = (*wanted.gpu_types(needs), config.cluster_components.instance_type)
    where = {name: sorted(names & facts.offers.get(name, frozenset())) for name in types}
    fix = "choose other types (karpenter/provisioner/instanceType, clusterComponents/instanceType) or zones"
    wishes = [(need.name, need.instance_types) for need in needs]
    wishes.append(("the system", (config.cluster_components.instance_type,)))
    nowhere = [who for who, names_of in wishes if not any(where[name] for name in names_of)]
    if nowhere:
        return OFFERS.fail(f"no instance type of {', '.join(nowhere)} is offered in {_list(names)}", fix)
    missing = [name for name, found in where.items() if not found]
    if missing:
        return OFFERS.warn(f"{', '.join(missing)} is not offered in {_list(names)}", fix)
    return OFFERS.ok("; ".join(f"{name}: {', '.join(found)}" for name, found in where.items()))


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "any zone"


def _spot_price(types: Sequence[str], facts: AwsFacts) -> Check:
    prices = facts.spot_prices
    if isinstance(prices, Unknown):
        return SPOT_PRICE.unknown(prices)
    sign = "¥" if facts.partition == "aws-cn" else "$"
    cheapest: list[str] = []
    for name in types:
        found = [(price, zone) for (kind, zone), price in prices.items() if kind == name]
        if found:
            price, zone = min(found)
            cheapest.append(f"{name} {sign}{price:.4g} an hour ({zone})")
    without = [name for name in types if not any(kind == name for kind, _ in prices)]
    if without:
        said = f"no spot capacity is sold of {', '.join(without)}"
        return SPOT_PRICE.warn(
            "; ".join([said, *cheapest]), "name other instance types, or leave on-demand capacity on"
        )
    return SPOT_PRICE.ok("; ".join(cheapest))


def _placement(config: Config, facts: AwsFacts) -> Check:
    scores, zones = facts.placement_scores, chosen_zones(config, facts)
    if isinstance(scores, Unknown):
        return PLACEMENT.unknown(scores)
    if isinstance(zones, Unknown):
        return PLACEMENT.unknown(zones)
    ours = {zone.name: scores[zone.id] for zone in zones if zone.id in scores}
    said = ", ".join(f"{name} {score}" for name, score in ours.items()) or "no zone of ours has a score"
    if max(ours.values(), default=0) <= LOW_SCORE:
        return PLACEMENT.warn(f"of 10: {said}", "name more instance types, or leave on-demand capacity on")
    return PLACEMENT.ok(f"of 10: {said}")
