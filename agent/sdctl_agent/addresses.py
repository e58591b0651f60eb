"""Which addresses inputs may come from. Pure: nothing is resolved here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IPv6 prefixes that carry an IPv4 address in their last 32 bits, which is the one that is reached.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_NAT64_LOCAL: Final = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_TRANSLATED: Final = ipaddress.IPv6Network("::ffff:0:0:0/96")  # RFC 2765
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")  # RFC 4291, deprecated
_DISCARD_ONLY: Final = ipaddress.IPv6Network("100::/64")  # RFC 6666


def is_public(address: Address) -> bool:
    """Tell whether an address belongs to the public internet, whichever form it is written in.

    Not public: loopback, private, link-local (with every cloud's metadata service at 169.254.169.254 and
    fd00:ec2::254), carrier-grade NAT, multicast, reserved, unspecified, documentation; and every IPv6
    form that carries such an IPv4 address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None or address.is_site_local:
            return False
        if address in _NAT64_LOCAL or address in _DISCARD_ONLY or address.teredo is not None:
            return False
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and any(address in network for network in (_NAT64, _TRANSLATED, _COMPATIBLE)):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Where inputs may come from besides the public internet."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    endpoints: frozenset[tuple[str, int]] = frozenset()
    buckets: frozenset[str] = field(default_factory=frozenset)

    def allows(self, host: str, port: int, address: Address) -> bool:
        """Tell whether `host`, which resolved to `address`, is listed; names in lower case."""
        names = (host, str(address))
        return (
            any(name in self.hosts or (name, port) in self.endpoints for name in names)
            or any(address in network for network in self.networks)
        )  # fmt: skip


def parse_allowlist(entries: Iterable[str]) -> Allowlist:
    """Read `INPUT_ALLOWLIST`: CIDR blocks and addresses, `host`, `host:port`, `s3://bucket`.

    Raises:
        ValueError: naming every entry that is none of these.
    """
    networks, hosts, endpoints, buckets, problems = [], set(), set(), set(), []
    for entry in entries:
        text = entry.strip().lower()
        if text.startswith("s3://"):
            bucket = text.removeprefix("s3://").rstrip("/")
            if bucket and "/" not in bucket:
                buckets.add(bucket)
                continue
        elif (network := _network(text)) is not None:
            networks.append(network)
            continue
        elif (endpoint := _endpoint(text)) is not None:
            host, port = endpoint
            if port is None:
                hosts.add(host)
            else:
                endpoints.add((host, port))
            continue
        problems.append(f'"{entry}"')
    if problems:
        raise ValueError(f"{', '.join(problems)}: not a CIDR block, host, host:port or s3://bucket")
    return Allowlist(tuple(networks), frozenset(hosts), frozenset(endpoints), frozenset(buckets))


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _endpoint(text: str) -> tuple[str, int | None] | None:
    host, separator, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not separator:
        host, port = text, ""
    host = host.removeprefix("[").removesuffix("]").rstrip(".")
    if not host or any(char in host for char in "/@?# \t[]") or (separator and not port.isdecimal()):
        return None
    if ":" in host and _network(host) is None:
        return None
    number = int(port) if separator else None
    return (host, number) if number is None or 0 < number < 65536 else None
