"""The network stack: a VPC with three public and three private subnets, or nothing where one exists."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any, Final

from sdctl.config.model import Config
from sdctl.render.engine import render_yaml
from sdctl.render.stacks import Stack

NETWORK_TEMPLATE: Final = "network.yaml.j2"
ZONES: Final = 3
SUBNET_PREFIX: Final = 19
# Traffic to these needs no NAT and costs nothing:
# https://docs.aws.amazon.com/vpc/latest/privatelink/gateway-endpoints.html
GATEWAY_SERVICES: Final = ("s3", "dynamodb")
# What nodes and pods call where no NAT leads out: images, identities, queues, topics, logs, metrics and
# the instances that Karpenter starts. eks-auth is where EKS Pod Identity takes its credentials from.
# https://docs.aws.amazon.com/eks/latest/userguide/private-clusters.html
INTERFACE_SERVICES: Final = (
    "ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "logs", "monitoring", "sns", "sqs", "ssm", "sts",
)  # fmt: skip
# In the China partition these endpoint services carry a prefix, the others do not:
# https://docs.amazonaws.cn/en_us/vpc/latest/privatelink/aws-services-privatelink-support.html
CHINA_PREFIXED_SERVICES: Final = frozenset({"ec2", "ecr.api", "ecr.dkr", "sts"})


def network_stack(config: Config, *, partition: str) -> Stack | None:
    """Render the network, or return None where the configuration names an existing VPC.

    Args:
        config: the configuration.
        partition: `aws`, `aws-cn`, …: it decides the names of the interface endpoints.
    """
    if config.network.vpc_id:
        return None
    template = render_yaml(NETWORK_TEMPLATE, _context(config, partition))
    tags = {**config.tags, "sdctl:stack": config.stack_name}
    return Stack(f"{config.stack_name}-network", template, {}, tags)


def _context(config: Config, partition: str) -> dict[str, Any]:
    network = config.network
    zones = _zones(IPv4Network(network.vpc_cidr), network.nat_mode)
    interface = INTERFACE_SERVICES if network.nat_mode == "none" else ()
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


def _zones(network: IPv4Network, nat_mode: str) -> list[dict[str, Any]]:
    """Lay the subnets out: the public ones first, then the private ones, a /19 each."""
    blocks = [str(block) for block in network.subnets(new_prefix=SUBNET_PREFIX)]
    zones = []
    for index in range(ZONES):
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
