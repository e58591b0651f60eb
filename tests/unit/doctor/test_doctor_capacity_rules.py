"""vCPU quotas, zones, instance offers, spot capacity and headroom: each rule's pass, warn and fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdctl.clients.cloudformation import StackView
from sdctl.clients.ec2 import SPOT, Subnet, Zone
from sdctl.doctor.needs import family_of, runtime_needs
from support.doctor import DENIED, REGION, config, gpu_node, healthy, judged, provisioner, runtime

ON_DEMAND_G, SPOT_G = "L-DB2E81BA", "L-3819A6DF"
VPC = {"vpcId": "vpc-0123456789abcdef0", "subnetIds": ["subnet-00000001", "subnet-00000002"]}


def with_quotas(**codes: float) -> dict[str, Any]:
    named = {"g": ON_DEMAND_G, "g_spot": SPOT_G, "standard": "L-1216C47A", "p": "L-417A185B"}
    return {**healthy().quotas, **{named[name]: value for name, value in codes.items()}}


def subnet(number: int, zone: str, **changes: Any) -> Subnet:
    zone_id = f"usw2-az{ord(zone) - ord('a') + 1}"
    one = Subnet(f"subnet-0000000{number}", VPC["vpcId"], f"{REGION}{zone}", zone_id, 500)
    return replace(one, **changes)


def test_quotas_are_compared_with_all_replicas_at_the_largest_type() -> None:
    wanted = config(
        modelsRuntime=[
            runtime(provisioner(instanceType=["g6.xlarge", "g6.2xlarge"])
                    | {"runtime": {"scaling": {"maxReplicaCount": 5}}}),
            runtime(provisioner(instanceType="g6.xlarge") | {"runtime": {"scaling": {"maxReplicaCount": 3}}},
                    name="other", modelFilename="b.safetensors"),
        ]
    )  # fmt: skip
    quotas = with_quotas(g=52, g_spot=51)
    checks = judged(wanted, healthy(wanted, quotas=quotas))
    assert checks["quota-g-on-demand"].result == "pass"
    assert "52 wanted" in checks["quota-g-on-demand"].found
    assert checks["quota-g-spot"].result == "warn"
    assert "not all can run at once" in checks["quota-g-spot"].found
    assert checks["quota-g-spot"].fix == (
        "ask for 52 vCPU at https://us-west-2.console.aws.amazon.com/"
        "servicequotas/home/services/ec2/quotas/L-3819A6DF"
    )


def test_a_spot_quota_of_zero_is_a_warning_where_on_demand_nodes_can_start() -> None:
    check = judged(facts=healthy(quotas=with_quotas(g_spot=0)))["quota-g-spot"]
    assert check.result == "warn"
    assert "sdruntime can start no spot node" in check.found


def test_quotas_of_zero_for_both_kinds_fail_both_checks() -> None:
    checks = judged(facts=healthy(quotas=with_quotas(g=0, g_spot=0)))
    for name in ("quota-g-on-demand", "quota-g-spot"):
        assert checks[name].result == "fail"
        assert "too few for a node of sdruntime" in checks[name].found


def test_a_runtime_that_runs_on_spot_alone_fails_without_a_spot_quota() -> None:
    wanted = config(modelsRuntime=[runtime(provisioner(capacityType={"onDemand": False, "spot": True}))])
    checks = judged(wanted, healthy(wanted, quotas=with_quotas(g_spot=7)))
    assert checks["quota-g-spot"].result == "fail"
    assert "quota-g-on-demand" not in checks


def test_a_runtime_of_two_families_may_start_where_only_one_has_a_quota() -> None:
    types = ["g5.2xlarge", "p4d.24xlarge"]
    wanted = config(modelsRuntime=[runtime(provisioner(instanceType=types, capacityType={"spot": False}))])
    checks = judged(wanted, healthy(wanted, quotas=with_quotas(p=0)))
    assert checks["quota-p-on-demand"].result == "warn"
    checks = judged(wanted, healthy(wanted, quotas=with_quotas(p=0, g=0)))
    assert {checks["quota-p-on-demand"].result, checks["quota-g-on-demand"].result} == {"fail"}


def test_what_others_run_is_subtracted_and_our_own_nodes_are_not() -> None:
    others = (gpu_node(40), gpu_node(8, SPOT), gpu_node(4, **{"sdctl:stack": "another"}))
    ours = (
        gpu_node(96, **{"kubernetes.io/cluster/sdoneks": "owned"}),
        gpu_node(8, **{"sdctl:stack": "sdoneks"}),
    )
    check = judged(facts=healthy(running=others + ours))["quota-g-on-demand"]
    assert "200 vCPU, 156 free" in check.found
    assert check.result == "warn"
    assert check.fix.startswith("ask for 204 vCPU ")


def test_the_system_nodes_need_their_quota_at_once() -> None:
    check = judged(facts=healthy(quotas=with_quotas(standard=3)))["quota-standard-on-demand"]
    assert check.result == "fail"
    assert "the system" in check.found
    assert judged(facts=healthy(quotas=with_quotas(standard=4)))["quota-standard-on-demand"].result == "pass"


@pytest.mark.parametrize("missing", ["vcpus", "running"])
def test_a_quota_is_not_judged_without_the_sizes_and_what_runs(missing: str) -> None:
    check = judged(facts=healthy(**{missing: DENIED}))["quota-g-spot"]
    assert (check.result, check.found) == ("warn", f"not checked: {DENIED.reason}")


def test_a_quota_that_cannot_be_read_is_a_warning_and_may_still_be_enough_for_another() -> None:
    quotas = {**with_quotas(g_spot=0), ON_DEMAND_G: DENIED}
    checks = judged(facts=healthy(quotas=quotas))
    assert checks["quota-g-on-demand"].found.startswith("not checked")
    assert checks["quota-g-spot"].result == "warn"


def test_a_family_whose_quota_we_do_not_know_is_a_warning() -> None:
    wanted = config(modelsRuntime=[runtime(provisioner(instanceType=["inf2.xlarge"]))])
    check = judged(wanted)["quota-inf2.xlarge"]
    assert check.result == "warn"
    assert check.fix.startswith("https://")


@pytest.mark.parametrize(
    ("name", "key"),
    [("g5.2xlarge", "g"), ("gr6.4xlarge", "g"), ("vt1.3xlarge", "g"), ("p5en.48xlarge", "p"),
     ("m7g.large", "standard"), ("im4gn.large", "standard"), ("mac2.metal", None), ("inf2.xlarge", None)],
)  # fmt: skip
def test_instance_types_count_against_the_quota_of_their_letters(name: str, key: str | None) -> None:
    family = family_of(name)
    assert (family.key if family else None) == key


def test_needs_come_from_the_configuration_then_from_the_chart_then_from_defaults() -> None:
    chart = {
        "karpenter": {"provisioner": {"instanceType": ["g4dn.xlarge"], "capacityType": {"spot": False}}},
        "runtime": {"scaling": {"maxReplicaCount": 7}},
    }
    wanted = config(
        modelsRuntime=[
            runtime(), runtime(provisioner(instanceType=["g6.xlarge"]), name="b", modelFilename="b.ckpt"),
        ]
    )  # fmt: skip
    first, second = runtime_needs(wanted, chart)
    assert (first.instance_types, first.capacities, first.max_replicas) == (
        ("g4dn.xlarge",),
        ("on-demand",),
        7,
    )
    assert second.instance_types == ("g6.xlarge",)
    (plain,) = runtime_needs(config(), {})
    assert (plain.capacities, plain.max_replicas) == (("on-demand", "spot"), 20)


def test_values_of_a_wrong_kind_are_left_to_the_charts_schema() -> None:
    odd = provisioner(instanceType=7) | {"runtime": {"scaling": {"maxReplicaCount": True}}}
    wanted = config(modelsRuntime=[runtime(odd)])
    (need,) = runtime_needs(wanted, {})
    assert (need.instance_types, need.max_replicas) == (("g5.2xlarge", "g6.2xlarge"), 20)


def test_two_zones_that_eks_supports_are_enough_and_one_is_not() -> None:
    two = (Zone("us-west-1a", "usw1-az1"), Zone("us-west-1c", "usw1-az3"))
    assert judged(facts=healthy(zones=two))["zones"].found == "us-west-1a, us-west-1c"
    check = judged(facts=healthy(zones=(two[0], Zone("us-west-1b", "usw1-az2"))))["zones"]
    assert (check.result, check.fix) == ("fail", "choose another region")
    assert "us-west-1a for EKS here, not 2" in check.found


def test_a_zone_that_eks_refuses_is_left_out_unless_it_is_asked_for() -> None:
    east = tuple(
        Zone(f"us-east-1{letter}", f"use1-az{number}")
        for letter, number in zip("abc", (6, 3, 1), strict=True)
    )
    assert judged(facts=healthy(zones=east))["zones"].found == "us-east-1a, us-east-1c"
    wanted = config(network={"zones": ["us-east-1a", "us-east-1b"]})
    check = judged(wanted, healthy(wanted, zones=east))["zones"]
    assert (check.result, check.found) == ("fail", "EKS does not support us-east-1b (use1-az3)")
    wanted = config(network={"zones": ["us-east-1a", "us-east-1f"]})
    assert "no us-east-1f" in judged(wanted, healthy(wanted, zones=east))["zones"].found


@pytest.mark.parametrize(
    ("subnets", "result", "said"),
    [
        ((subnet(1, "a"), subnet(2, "b")), "pass", "us-west-2a, us-west-2b"),
        ((subnet(1, "a"),), "fail", "no subnets subnet-00000002"),
        ((subnet(1, "a"), subnet(2, "b", vpc_id="vpc-1")), "fail", "outside of"),
        ((subnet(1, "a"), subnet(2, "a")), "fail", "one zone"),
        ((subnet(1, "a"), subnet(2, "b", zone_id="use1-az3")), "fail", "does not support"),
        ((subnet(1, "a"), subnet(2, "b", free_addresses=9)), "warn", "subnet-00000002 (9)"),
    ],
)
def test_the_subnets_of_an_existing_network_are_judged(
    subnets: tuple[Subnet, ...], result: str, said: str
) -> None:
    wanted = config(network=VPC)
    check = judged(wanted, healthy(wanted, subnets=subnets))["zones"]
    assert check.result == result
    assert said in check.found


def test_an_existing_network_takes_no_room_for_another() -> None:
    wanted = config(network=VPC)
    checks = judged(wanted, healthy(wanted, subnets=(subnet(1, "a"), subnet(2, "b")), vpc_count=5))
    assert {"vpc-headroom", "address-headroom", "nat-headroom"}.isdisjoint(checks)


def test_an_instance_type_must_be_offered_in_a_zone_that_is_used() -> None:
    only_d = healthy().offers | {"g5.2xlarge": frozenset({f"{REGION}d"})}  # type: ignore[operator]
    check = judged(facts=healthy(offers=only_d))["instance-offers"]
    assert check.result == "warn"
    assert check.found.startswith("g5.2xlarge is not offered")
    neither = only_d | {"g6.2xlarge": frozenset()}
    check = judged(facts=healthy(offers=neither))["instance-offers"]
    assert check.result == "fail"
    assert "no instance type of sdruntime" in check.found


def test_the_systems_instance_type_must_be_offered_too() -> None:
    offers = {name: zones for name, zones in healthy().offers.items() if name != "m7g.large"}  # type: ignore[union-attr]
    assert "the system" in judged(facts=healthy(offers=offers))["instance-offers"].found


@pytest.mark.parametrize("missing", ["offers", "zones"])
def test_offers_are_not_judged_without_the_zones(missing: str) -> None:
    assert judged(facts=healthy(**{missing: DENIED}))["instance-offers"].found.startswith("not checked")


def test_the_cheapest_spot_price_of_each_type_is_shown() -> None:
    prices = {("g5.2xlarge", "a"): 0.6, ("g5.2xlarge", "b"): 0.4968, ("g6.2xlarge", "b"): 0.53}
    check = judged(facts=healthy(spot_prices=prices))["spot-price"]
    assert check.found == "g5.2xlarge $0.4968 an hour (b); g6.2xlarge $0.53 an hour (b)"
    assert "¥" in judged(facts=healthy(spot_prices=prices, partition="aws-cn"))["spot-price"].found


def test_a_type_without_a_spot_price_is_a_warning() -> None:
    check = judged(facts=healthy(spot_prices={("g6.2xlarge", "b"): 0.53}))["spot-price"]
    assert check.result == "warn"
    assert "sold of g5.2xlarge" in check.found
    assert judged(facts=healthy(spot_prices=DENIED))["spot-price"].result == "warn"


def test_a_placement_score_is_judged_where_it_was_asked_for() -> None:
    assert "spot-placement" not in judged()
    good = judged(facts=healthy(placement_scores={"usw2-az1": 2, "usw2-az3": 9, "usw2-az4": 10}))
    assert (good["spot-placement"].result, good["spot-placement"].found) == (
        "pass", "of 10: us-west-2a 2, us-west-2c 9",
    )  # fmt: skip
    assert judged(facts=healthy(placement_scores={"usw2-az1": 3}))["spot-placement"].result == "warn"
    assert judged(facts=healthy(placement_scores={}))["spot-placement"].result == "warn"
    assert judged(facts=healthy(placement_scores=DENIED))["spot-placement"].found.startswith("not checked")


@pytest.mark.parametrize(
    ("changes", "check", "result"),
    [
        ({"vpc_count": 4}, "vpc-headroom", "pass"),
        ({"vpc_count": 5}, "vpc-headroom", "fail"),
        ({"vpc_count": DENIED}, "vpc-headroom", "warn"),
        ({"address_count": 4}, "address-headroom", "pass"),
        ({"address_count": 5}, "address-headroom", "fail"),
        ({"nat_gateways": {f"{REGION}a": 4, f"{REGION}b": 5}}, "nat-headroom", "pass"),
        ({"nat_gateways": {f"{REGION}a": 5}}, "nat-headroom", "fail"),
        ({"nat_gateways": DENIED}, "nat-headroom", "warn"),
        ({"zones": DENIED}, "nat-headroom", "warn"),
        ({"bucket_count": 9_997}, "bucket-headroom", "pass"),
        ({"bucket_count": 9_998}, "bucket-headroom", "fail"),
        ({"concurrent_executions": 53}, "lambda-concurrency", "pass"),
        ({"concurrent_executions": 10}, "lambda-concurrency", "warn"),
        ({"concurrent_executions": 3}, "lambda-concurrency", "fail"),
        ({"concurrent_executions": DENIED}, "lambda-concurrency", "warn"),
        ({"quotas": {}}, "vpc-headroom", "warn"),
    ],
)
def test_headroom(changes: dict[str, Any], check: str, result: str) -> None:
    found = judged(facts=healthy(**changes))[check]
    assert found.result == result
    assert bool(found.fix) == (result != "pass")


def test_a_nat_gateway_per_zone_needs_three_addresses_and_room_in_each_zone() -> None:
    wanted = config(network={"natMode": "perZone"})
    assert judged(wanted, healthy(wanted, address_count=3))["address-headroom"].result == "fail"
    crowded = {f"{REGION}b": 5}
    assert judged(wanted, healthy(wanted, nat_gateways=crowded))["nat-headroom"].result == "fail"


def test_without_nat_gateways_no_address_is_needed() -> None:
    wanted = config(network={"natMode": "none"})
    assert {"address-headroom", "nat-headroom"}.isdisjoint(judged(wanted))


def test_what_is_deployed_already_needs_no_more_room() -> None:
    stack = StackView("sdoneks-network", "id", "CREATE_COMPLETE", tags={"sdctl:stack": "sdoneks"})
    stacks = {**healthy().stacks, "sdoneks-network": stack}
    buckets = dict.fromkeys(healthy().buckets, REGION)
    checks = judged(facts=healthy(stacks=stacks, vpc_count=5, buckets=buckets, bucket_count=10_000))
    assert checks["vpc-headroom"].result == "pass"
    assert "nat-headroom" not in checks
    assert checks["bucket-headroom"].result == "pass"
