"""What the emulator does not know, answered at the door: quotas, offers, prices, versions, images.

The numbers are invented; the shapes are those of the services' API references.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from aiohttp import web

from sdctl.versions import EKS_CALENDAR
from support.aws_proxy import Call

ZONE_LETTERS: Final = "abc"
QUOTA: Final = 1000.0
HOURLY_PRICE: Final = "0.1000000000"
# vCPUs by what stands behind the dot of an instance type's name.
VCPUS: Final = {"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16, "12xlarge": 48}
_XML: Final = "text/xml"


def answers(region: str) -> Callable[[Call], web.Response | None]:
    """Return what answers a call, or None for those that the emulator shall answer."""
    zones = [f"{region}{letter}" for letter in ZONE_LETTERS]

    def answer(call: Call) -> web.Response | None:
        match call.service, call.operation:
            case "servicequotas", "GetServiceQuota":
                return _json({"Quota": {"Value": QUOTA}})
            case "ec2", "DescribeInstanceTypeOfferings":
                return _offerings(call, zones)
            case "ec2", "DescribeInstanceTypes" if "Filter.1" in call.text:
                return _types(call)
            case "ec2", "DescribeSpotPriceHistory":
                return _spot_prices(call, zones)
            case "ec2", "GetSpotPlacementScores":
                return _scores(zones)
            case "eks", "GET /cluster-versions":
                return _versions()
            case "ssm", "GetParameters" if "/aws/service/" in call.text:
                return _images(call)
            case "pricing", "GetProducts":
                return _products(call)
        return None

    return answer


def _json(document: object) -> web.Response:
    return web.json_response(document)


def _body(call: Call) -> str:
    return call.text.partition(" ")[2]


def _fields(call: Call, prefix: str) -> list[str]:
    return [value[0] for name, value in parse_qs(_body(call)).items() if re.fullmatch(prefix, name)]


def _ec2(operation: str, inner: str) -> web.Response:
    return web.Response(
        text=f'<{operation}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<requestId>test</requestId>{inner}</{operation}Response>",
        content_type=_XML,
    )


def _types(call: Call) -> web.Response:
    items = "".join(
        f"<item><instanceType>{kind}</instanceType><vCpuInfo>"
        f"<defaultVCpus>{VCPUS[kind.partition('.')[2]]}</defaultVCpus></vCpuInfo></item>"
        for kind in _fields(call, r"Filter\.1\.Value\.\d+")
    )
    return _ec2("DescribeInstanceTypes", f"<instanceTypeSet>{items}</instanceTypeSet>")


def _offerings(call: Call, zones: list[str]) -> web.Response:
    types = _fields(call, r"Filter\.1\.Value\.\d+")
    items = "".join(
        f"<item><instanceType>{kind}</instanceType><locationType>availability-zone</locationType>"
        f"<location>{zone}</location></item>"
        for kind in types
        for zone in zones
    )
    inner = f"<instanceTypeOfferingSet>{items}</instanceTypeOfferingSet>"
    return _ec2("DescribeInstanceTypeOfferings", inner)


def _spot_prices(call: Call, zones: list[str]) -> web.Response:
    items = "".join(
        f"<item><instanceType>{kind}</instanceType><productDescription>Linux/UNIX</productDescription>"
        f"<spotPrice>{HOURLY_PRICE}</spotPrice><timestamp>2026-01-01T00:00:00.000Z</timestamp>"
        f"<availabilityZone>{zone}</availabilityZone></item>"
        for kind in _fields(call, r"InstanceType\.\d+")
        for zone in zones
    )
    inner = f"<spotPriceHistorySet>{items}</spotPriceHistorySet>"
    return _ec2("DescribeSpotPriceHistory", inner)


def _scores(zones: list[str]) -> web.Response:
    items = "".join(
        f"<item><region>{zone[:-1]}</region><availabilityZoneId>usw2-az{number}</availabilityZoneId>"
        "<score>9</score></item>"
        for number, zone in enumerate(zones, 1)
    )
    inner = f"<spotPlacementScoreSet>{items}</spotPlacementScoreSet>"
    return _ec2("GetSpotPlacementScores", inner)


def _versions() -> web.Response:
    versions = [
        {
            "clusterVersion": one.version, "releaseDate": f"{one.released}T00:00:00Z",
            "endOfStandardSupportDate": f"{one.standard_ends}T00:00:00Z",
            "endOfExtendedSupportDate": f"{one.extended_ends}T00:00:00Z",
        }
        for one in EKS_CALENDAR
    ]  # fmt: skip
    return _json({"clusterVersions": versions})


def _images(call: Call) -> web.Response:
    names = json.loads(_body(call))["Names"]
    found = [{"Name": name, "Type": "String", "Value": "ami-0123456789abcdef0"} for name in names]
    return _json({"Parameters": found, "InvalidParameters": []})


def _products(call: Call) -> web.Response:
    """Answer with one price for anything: by the hour, storage by the gibibyte a month."""
    wanted = {one["Field"]: one["Value"] for one in json.loads(_body(call)).get("Filters", ())}
    kind = wanted.get("instanceType")
    usages = [f"BoxUsage:{kind}"] if kind else [
        "AmazonEKS-Hours:perCluster", "NatGateway-Hours", "PublicIPv4:InUseAddress", "VpcEndpoint-Hours",
        "EBS:VolumeUsage.gp3", "EBS:SnapshotUsage",
    ]  # fmt: skip
    return _json({"FormatVersion": "aws_v1", "PriceList": [json.dumps(_price(usage)) for usage in usages]})


def _price(usage: str) -> dict[str, object]:
    unit = "GB-Mo" if usage.startswith("EBS:") else "Hrs"
    dimension = {"unit": unit, "beginRange": "0", "pricePerUnit": {"USD": HOURLY_PRICE}}
    return {
        "product": {"attributes": {"usagetype": usage}},
        "terms": {"OnDemand": {"one": {"priceDimensions": {"one": dimension}}}},
    }
