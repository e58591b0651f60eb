"""The price list's answers, and the sums made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.stub import Stubber

from sdctl import prices
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.pricing import Pricing, served_from
from sdctl.errors import AwsError
from sdctl.prices import Charge, Price, reference_price, total


def entry(usage_type: str, amount: str, unit: str = "Hrs", currency: str = "USD", begin: str = "0") -> str:
    """One product as the price list writes it: JSON within JSON."""
    dimension = {"unit": unit, "beginRange": begin, "endRange": "Inf", "pricePerUnit": {currency: amount}}
    return json.dumps(
        {
            "product": {"sku": "S", "attributes": {"usagetype": usage_type, "regionCode": "us-west-2"}},
            "terms": {"OnDemand": {"S.T": {"sku": "S", "priceDimensions": {"S.T.D": dimension}}}},
        }
    )


@pytest.fixture
def asked() -> Iterator[tuple[Pricing, Stubber]]:
    pricing = Pricing(Aws(AwsAccess("us-west-2")))
    with Stubber(pricing._aws.client("pricing")) as stub:
        yield pricing, stub
        stub.assert_no_pending_responses()


def filters(service: str, **fields: str) -> dict[str, Any]:
    listed = [{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in fields.items()]
    return {"ServiceCode": service, "Filters": listed}


def test_the_price_of_a_machine_is_that_of_the_plain_linux_one(asked: tuple[Pricing, Stubber]) -> None:
    pricing, stub = asked
    wanted = filters(
        "AmazonEC2", regionCode="us-west-2", productFamily="Compute Instance", operatingSystem="Linux",
        preInstalledSw="NA", capacitystatus="Used", tenancy="Shared", marketoption="OnDemand",
        instanceType="g5.2xlarge",
    )  # fmt: skip
    found = [entry("USW2-UnusedBox:g5.2xlarge", "0"), entry("USW2-BoxUsage:g5.2xlarge", "1.2120000000")]
    stub.add_response("get_products", {"PriceList": found}, wanted)
    assert pricing.instance("g5.2xlarge") == Price(1.212, "USD")
    assert pricing.instance("g5.2xlarge") == Price(1.212, "USD")  # not asked for again


def test_a_price_may_be_on_a_later_page(asked: tuple[Pricing, Stubber]) -> None:
    pricing, stub = asked
    first = filters("AmazonEC2", regionCode="us-west-2", productFamily="NAT Gateway")
    others = [entry("USW2-NatGateway-Bytes", "0.045", "GB"), entry("USW2-RegionalNatGateway-Hours", "0.05")]
    stub.add_response("get_products", {"PriceList": others, "NextToken": "more"}, first)
    found = [entry("USW2-NatGateway-Hours", "0.045")]
    stub.add_response("get_products", {"PriceList": found}, first | {"NextToken": "more"})
    assert pricing.product(prices.NAT_GATEWAY) == Price(0.045, "USD")


@pytest.mark.parametrize(
    ("name", "usage_type", "unit", "kind"),
    [
        (prices.EKS_CLUSTER, "AmazonEKS-Hours:perCluster", "Hrs", "hour"),
        (prices.PUBLIC_ADDRESS, "EUC1-PublicIPv4:InUseAddress", "Hrs", "hour"),
        (prices.VPC_ENDPOINT, "USW2-VpcEndpoint-Hours", "Hrs", "hour"),
        (prices.VOLUME, "USW2-EBS:VolumeUsage.gp3", "GB-Mo", "gib-month"),
        (prices.SNAPSHOT, "USW2-EBS:SnapshotUsage", "GB-Mo", "gib-month"),
        (prices.FAST_RESTORE, "APN1-EBS:FastSnapshotRestore", "hours", "hour"),
        (prices.FAST_RESTORE, "EBS:FastSnapshotRestore", "DSU-Hours", "hour"),
    ],
)
def test_usage_types_come_with_and_without_the_prefix_of_a_region(
    asked: tuple[Pricing, Stubber], name: str, usage_type: str, unit: str, kind: str
) -> None:
    pricing, stub = asked
    found = [entry(f"{usage_type}.Extra", "9", unit), entry(usage_type, "0.1", unit)]
    stub.add_response("get_products", {"PriceList": found})
    price = pricing.product(name)
    assert price is not None
    assert (price.amount, price.unit) == (0.1, kind)


def test_what_a_region_does_not_sell_has_no_price(asked: tuple[Pricing, Stubber]) -> None:
    pricing, stub = asked
    stub.add_response("get_products", {"PriceList": []})
    assert pricing.instance("g9.mega") is None


def test_only_the_first_tier_counts_and_an_unknown_unit_is_an_error(asked: tuple[Pricing, Stubber]) -> None:
    pricing, stub = asked
    tiers = [entry("EBS:SnapshotUsage", "0.01", "GB-Mo", begin="1000")]
    stub.add_response("get_products", {"PriceList": tiers})
    assert pricing.product(prices.SNAPSHOT) is None
    stub.add_response("get_products", {"PriceList": [entry("VpcEndpoint-Hours", "1", "Fortnights")]})
    with pytest.raises(AwsError, match="by Fortnights"):
        pricing.product(prices.VPC_ENDPOINT)


def test_a_refusal_is_said_in_our_words(asked: tuple[Pricing, Stubber]) -> None:
    pricing, stub = asked
    stub.add_client_error("get_products", "AccessDeniedException", "no")
    with pytest.raises(AwsError, match="could not read the price of eks-cluster"):
        pricing.product(prices.EKS_CLUSTER)


@pytest.mark.parametrize(
    ("region", "endpoint"),
    [("us-west-2", "us-east-1"), ("eu-west-1", "eu-central-1"), ("ap-northeast-1", "ap-south-1"),
     ("cn-north-1", "cn-northwest-1"), ("sa-east-1", "us-east-1")],
)  # fmt: skip
def test_the_price_list_is_asked_where_it_is_served(region: str, endpoint: str) -> None:
    assert served_from(region) == endpoint
    assert Pricing(Aws(AwsAccess(region)))._aws.client("pricing").meta.region_name == endpoint


def test_charges_add_up_by_hour_and_month_and_name_what_has_no_price() -> None:
    charges = [
        Charge("cluster", 1, Price(0.1, "USD")),
        Charge("nodes", 2, Price(0.0816, "USD")),
        Charge("volume", 73, Price(0.08, "USD", "gib-month")),
        Charge("mystery", 1, None),
    ]
    found = total(charges)
    assert found.hourly == pytest.approx(0.1 + 2 * 0.0816 + 73 * 0.08 / 730)
    assert found.monthly == pytest.approx(730 * found.hourly)
    assert (found.currency, found.unpriced) == ("USD", ("mystery",))
    assert charges[3].monthly is None
    assert total([]).hourly == 0


def test_prices_of_two_currencies_are_never_added() -> None:
    charges = [Charge("a", 1, Price(1, "USD")), Charge("b", 1, Price(1, "CNY"))]
    with pytest.raises(ValueError, match="CNY and USD"):
        total(charges)


def test_a_published_price_says_of_when_and_where_it_is() -> None:
    spot = reference_price("g5.2xlarge", "spot")
    assert spot == Price(0.53, "USD", source="us-west-2 in March 2026")
    assert reference_price("g5.2xlarge") is None
    assert reference_price(prices.EKS_CLUSTER) == Price(0.1, "USD", source="us-west-2 in March 2026")
