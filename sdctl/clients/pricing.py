"""AWS's price list: what an hour, or a gibibyte a month, costs on demand in the deployment's region."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sdctl import prices
from sdctl.clients.aws import Aws, aws_errors
from sdctl.clients.ec2 import Ec2
from sdctl.errors import AwsError
from sdctl.prices import Price, Unit

# The price list is served from a few places:
# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
_SERVED_FROM: Final = {"ap": "ap-south-1", "eu": "eu-central-1", "cn": "cn-northwest-1"}
_ELSEWHERE: Final = "us-east-1"
_UNITS: Final[Mapping[str, Unit]] = {
    "Hrs": "hour", "hours": "hour", "DSU-Hours": "hour", "GB-Mo": "gib-month"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Product:
    """Where the price list has a thing: its usage type, which most regions put a prefix and a dash before."""

    service: str
    usage_type: str
    filters: tuple[tuple[str, str], ...] = ()


_PRODUCTS: Final = {
    prices.EKS_CLUSTER: _Product("AmazonEKS", "AmazonEKS-Hours:perCluster"),
    prices.NAT_GATEWAY: _Product("AmazonEC2", "NatGateway-Hours", (("productFamily", "NAT Gateway"),)),
    prices.PUBLIC_ADDRESS: _Product("AmazonVPC", "PublicIPv4:InUseAddress"),
    prices.VPC_ENDPOINT: _Product("AmazonVPC", "VpcEndpoint-Hours"),
    prices.VOLUME: _Product("AmazonEC2", "EBS:VolumeUsage.gp3", (("volumeApiName", "gp3"),)),
    prices.SNAPSHOT: _Product("AmazonEC2", "EBS:SnapshotUsage", (("productFamily", "Storage Snapshot"),)),
    # By the snapshot, zone and hour.
    prices.FAST_RESTORE: _Product("AmazonEC2", "EBS:FastSnapshotRestore"),
}
# The plain on-demand Linux machine among all the variants of an instance type.
_PLAIN_MACHINE: Final = (
    ("productFamily", "Compute Instance"), ("operatingSystem", "Linux"), ("preInstalledSw", "NA"),
    ("capacitystatus", "Used"), ("tenancy", "Shared"), ("marketoption", "OnDemand"),
)  # fmt: skip


def served_from(region: str) -> str:
    """Return the region whose endpoint has the price list of a region."""
    return _SERVED_FROM.get(region.partition("-")[0], _ELSEWHERE)


class Pricing:
    """Reads prices, each once."""

    def __init__(self, aws: Aws) -> None:
        """Use the session's credentials; the client is made on first use."""
        self._region, self._home = aws.region, aws
        self._aws = Aws(replace(aws.access, region=served_from(aws.region)))
        self._known: dict[str, Price | None] = {}

    def instance(self, instance_type: str) -> Price | None:
        """Return the on-demand price of an instance type with Linux, or None where it is not sold."""
        filters = (*_PLAIN_MACHINE, ("instanceType", instance_type))
        usage = _Product("AmazonEC2", f"BoxUsage:{instance_type}", filters)
        return self._price(instance_type, usage)

    def product(self, name: str) -> Price | None:
        """Return the price of one of the names of `sdctl.prices`, or None where the region has none."""
        return self._price(name, _PRODUCTS[name])

    def prices(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Price]:
        """Return prices by (name, zone): a product's or an instance type's, on spot where a zone is given.

        What has no price is left out.
        """
        listed = tuple(keys)
        spot_types = sorted({name for name, zone in listed if zone})
        spot = Ec2(self._home).spot_prices(spot_types) if spot_types else {}
        currency = "CNY" if self._region.startswith("cn-") else "USD"
        found: dict[tuple[str, str], Price | None] = {}
        for name, zone in listed:
            if not zone:
                found[name, zone] = self.product(name) if name in _PRODUCTS else self.instance(name)
            elif (name, zone) in spot:
                found[name, zone] = Price(spot[name, zone], currency, source="spot price now")
        return {key: price for key, price in found.items() if price is not None}

    def _price(self, name: str, product: _Product) -> Price | None:
        if name not in self._known:
            found = (price for entry in self._entries(name, product) for price in _prices(entry))
            self._known[name] = next(found, None)
        return self._known[name]

    def _entries(self, name: str, product: _Product) -> Iterator[Mapping[str, Any]]:
        wanted = re.compile(rf"([A-Z0-9]+-)?{re.escape(product.usage_type)}")
        filters = [
            {"Type": "TERM_MATCH", "Field": field, "Value": value}
            for field, value in (("regionCode", self._region), *product.filters)
        ]
        with aws_errors(f"read the price of {name}"):
            pages = self._aws.client("pricing").get_paginator("get_products")
            for page in pages.paginate(ServiceCode=product.service, Filters=filters):
                for text in page["PriceList"]:
                    entry: dict[str, Any] = json.loads(text)
                    if wanted.fullmatch(entry["product"]["attributes"].get("usagetype", "")):
                        yield entry


def _prices(entry: Mapping[str, Any]) -> Iterator[Price]:
    """Read the first tier of an entry's on-demand price.

    Raises:
        AwsError: it is in a unit that we do not know.
    """
    for term in entry["terms"].get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            if dimension.get("beginRange", "0") != "0":
                continue
            unit = _UNITS.get(dimension["unit"])
            if unit is None:
                raise AwsError(
                    f"the price list has a price by {dimension['unit']}, which sdctl does not know"
                )
            ((currency, amount),) = dimension["pricePerUnit"].items()
            yield Price(float(amount), currency, unit)
