"""The network stack: a VPC with public and private subnets in two or three zones, or none where one exists.

An existing VPC is left as it is: no endpoint, route or tag is added to it; `doctor` looks at what it lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Any, Final

from sdctl.config.model import Config
from sdctl.errors import ConfigError
from sdctl.render.engine import render_yaml
from sdctl.render.stacks import Stack, stack_tags

NETWORK_TEMPLATE: Final = "network.yaml.j2"
ZONES: Final = 3
MIN_ZONES: Final = 2
SUBNET_PREFIX: Final = 19
# Zones, by id, that EKS refuses for a control plane: names mean another zone in each account.
# https://docs.aws.amazon.com/eks/latest/userguide/network-reqs.html
# and for Beijing https://github.com/eksctl-io/eksctl/issues/3916
ZONE_IDS_WITHOUT_EKS: Final = frozenset({"use1-az3", "usw1-az2", "cac1-az3", "cnn1-az4"})
# Traffic to these needs no NAT and costs nothing:
# https://docs.aws.amazon.com/vpc/latest/privatelink/gateway-endpoints.html
GATEWAY_SERVICES: Final = ("s3", "dynamodb")
# What nodes and pods call: images, identities, queues, topics, logs, metrics and the instances that
# Karpenter starts; each endpoint is paid for by zone and hour. EKS Pod Identity takes its credentials from
# eks-auth. IAM and the price list have no endpoint.
# https://docs.aws.amazon.com/eks/latest/userguide/private-clusters.html
INTERFACE_SERVICES: Final = (
    "ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "logs", "monitoring", "sns", "sqs", "ssm", "sts",
)  # fmt: skip
# In the China partition these endpoint services carry a prefix, the others do not:
# https://docs.amazonaws.cn/en_us/vpc/latest/privatelink/aws-services-privatelink-support.html
CHINA_PREFIXED_SERVICES: Final = frozenset({"ec2", "ecr.api", "ecr.dkr", "sts"})


def network_stack(config: Config, *, partition: str, zones: tuple[str, ...] = ()) -> Stack | None:
    """Render the network, or return None where the configuration names an existing VPC.

    Args:
        config: the configuration.
        partition: `aws`, `aws-cn`, …: it decides the names of the interface endpoints.
        zones: what `choose_zones` chose, or the zones that the stack has already; configured ones win.
            Without either, CloudFormation takes the region's first three, which need not suit EKS.
    """
    if config.network.vpc_id:
        return None
    zones = config.network.zones or zones
    template = render_yaml(NETWORK_TEMPLATE, _context(config, partition, len(zones) or ZONES))
    parameters = {"Zones": ",".join(zones)} if zones else {}
    return Stack(f"{config.stack_name}-network", template, parameters, stack_tags(config))


def suitable_zones(zone_ids: Mapping[str, str]) -> tuple[str, ...]:
    """Return the first three zones by name that EKS takes, of the available ones, id by name."""
    names = (name for name, zone_id in zone_ids.items() if zone_id not in ZONE_IDS_WITHOUT_EKS)
    return tuple(sorted(names)[:ZONES])


def choose_zones(zone_ids: Mapping[str, str]) -> tuple[str, ...]:
    """Choose the zones of a new network.

    Args:
        zone_ids: the region's available zones, id by name, `{"us-east-1a": "use1-az4", …}`.

    Raises:
        ConfigError: EKS takes fewer than two of them.
    """
    chosen = suitable_zones(zone_ids)
    if len(chosen) < MIN_ZONES:
        raise ConfigError(
            f"EKS needs {MIN_ZONES} zones, the account has {', '.join(chosen) or 'none'} that it takes",
            hint="choose another region",
        )
    return chosen


def _context(config: Config, partition: str, zone_count: int) -> dict[str, Any]:
    network = config.network
    zones = _zones(IPv4Network(network.vpc_cidr), network.nat_mode, zone_count)
    has_endpoints = network.interface_endpoints or network.nat_mode == "none"
    services = (*INTERFACE_SERVICES, *(["xray"] if config.tracing else []))
    interface = services if has_endpoints else ()
    return {
        "description": f"sdctl {config.stack_name}: network",
        "vpc_cidr": network.vpc_cidr,
        "zones": zones,
        "private_route_tables": [{"Ref": zone["route_table"]} for zone in zones],
        "private_subnets": [{"Ref": zone["private_subnet"]} for zone in zones],
        "public_subnets": [{"Ref": zone["public_subnet"]} for zone in zones],
        "gateway_endpoints": [_endpoint(name, "aws") for name in GATEWAY_SERVICES],
        "interface_endpoints": [_endpoint(name, partition) for name in interface],
    }


def _zones(network: IPv4Network, nat_mode: str, count: int) -> list[dict[str, Any]]:
    """Lay the subnets out, a /19 each; a zone's networks do not depend on how many zones there are."""
    blocks = [str(block) for block in network.subnets(new_prefix=SUBNET_PREFIX)]
    zones = []
    for index in range(count):
        letter = "ABC"[index]
        has_own_nat = nat_mode == "perZone" or (nat_mode == "single" and index == 0)
        nat = {"single": "NatA", "perZone": f"Nat{letter}", "none": ""}[nat_mode]
        zones.append(
            {
                "number": index + 1,
                "index": index,
                "public_subnet": f"PublicSubnet{letter}",
                "private_subnet": f"PrivateSubnet{letter}",
                "route_table": f"PrivateRouteTable{letter}",
                "public_cidr": blocks[index],
                "private_cidr": blocks[ZONES + index],
                "public_name": f"${{AWS::StackName}}-public-{letter.lower()}",
                "private_name": f"${{AWS::StackName}}-private-{letter.lower()}",
                "nat": nat,
                "has_own_nat": has_own_nat,
            }
        )
    return zones


def _endpoint(service: str, partition: str) -> dict[str, str]:
    prefix = "cn." if partition == "aws-cn" and service in CHINA_PREFIXED_SERVICES else ""
    logical = "".join(part.capitalize() for part in service.replace(".", "-").split("-"))
    return {"logical": f"{logical}Endpoint", "service": f"{prefix}com.amazonaws.${{AWS::Region}}.{service}"}
