"""Which addresses inputs may come from."""
# ruff: noqa: E501 - tables are read line by line

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl_agent.addresses import is_public, parse_allowlist

V4_REFUSED = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "192.0.0.0/29", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
]  # fmt: skip
V6_REFUSED = [
    "::/128", "::1/128", "fe80::/10", "fec0::/10", "fc00::/7", "ff00::/8", "2001:db8::/32", "2001::/32", "100::/64",
    "64:ff9b:1::/48",
]  # fmt: skip


def inside(network: str) -> st.SearchStrategy[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return st.ip_addresses(network=network)


refused_v4 = st.one_of([inside(network) for network in V4_REFUSED])


@given(address=refused_v4)
def test_no_special_ipv4_address_is_public(address: ipaddress.IPv4Address) -> None:
    assert not is_public(address)


@given(address=st.one_of([inside(network) for network in V6_REFUSED]))
def test_no_special_ipv6_address_is_public(address: ipaddress.IPv6Address) -> None:
    assert not is_public(address)


@given(inner=refused_v4, prefix=st.sampled_from(["::ffff:0:0", "64:ff9b::", "::ffff:0:0:0", "::"]))
def test_no_ipv6_form_of_a_special_ipv4_address_is_public(inner: ipaddress.IPv4Address, prefix: str) -> None:
    assert not is_public(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(inner)))


@given(inner=refused_v4, rest=st.integers(0, 2**80 - 1))
def test_no_6to4_form_of_a_special_ipv4_address_is_public(inner: ipaddress.IPv4Address, rest: int) -> None:
    assert not is_public(ipaddress.IPv6Address((0x2002 << 112) | (int(inner) << 80) | rest))


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1",
        "52.95.110.1",
        "2606:4700:4700::1111",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
        "2002:101:101::1",
    ],
)
def test_addresses_of_the_internet_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "fe80::1%eth0"])
def test_metadata_services_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


def test_an_allowlist_takes_blocks_hosts_endpoints_and_buckets() -> None:
    allowed = parse_allowlist(
        ["10.1.0.0/16", "Files.Example.com", "127.0.0.1:4566", "s3://inputs", "[::1]:80", "fd00::/8"]
    )
    home = ipaddress.ip_address("10.1.2.3")
    assert allowed.buckets == {"inputs"}
    assert allowed.allows("anything", 80, home)
    assert allowed.allows("files.example.com", 8443, ipaddress.ip_address("192.168.0.1"))
    assert allowed.allows("localhost", 4566, ipaddress.ip_address("127.0.0.1"))
    assert allowed.allows("::1", 80, ipaddress.ip_address("::1"))
    assert not allowed.allows("localhost", 4567, ipaddress.ip_address("127.0.0.1"))
    assert not allowed.allows("x", 80, ipaddress.ip_address("10.2.0.1"))


@pytest.mark.parametrize(
    "entry",
    ["", "http://x", "a b", "host:port", "host:0", "host:99999", "s3://", "s3://b/key", "u@h", "::x:1"],
)
def test_an_entry_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="not a CIDR block") as caught:
        parse_allowlist(["fine.example.com", entry])
    assert f'"{entry}"' in str(caught.value)
