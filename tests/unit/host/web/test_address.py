"""Which addresses strangers may have the host call."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.host.web.address import why_closed
from runner.host.web.connect import is_own


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "172.17.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.0.9",
        "192.88.99.1",
        "198.18.0.1",
        "203.0.113.1",
        "224.0.0.251",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::8.8.8.8",
        "64:ff9b::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::",
        "2002:808:808::",
        "2001::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "fec0::1",
        "ff02::1",
        "100::1",
        "not an address",
    ],
)
def test_addresses_that_are_not_of_the_public_internet_are_closed(address: str) -> None:
    assert why_closed(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "100.63.255.255", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)
def test_public_addresses_are_open(address: str) -> None:
    assert why_closed(address) == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "192.168.0.1"])
def test_the_operator_may_open_private_addresses(address: str) -> None:
    assert why_closed(address, allow_private=True) == ""


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fe80::a9fe:a9fe",
    ],
)
def test_a_clouds_metadata_stays_closed_even_then(address: str) -> None:
    assert why_closed(address, allow_private=True)


@given(st.ip_addresses(v=4))
def test_no_way_to_write_a_closed_ipv4_address_opens_it(address: ipaddress.IPv4Address) -> None:
    plain = why_closed(str(address))
    mapped = ipaddress.IPv6Address(0xFFFF_0000_0000 + int(address))
    through_nat64 = ipaddress.IPv6Address((0x64FF9B << 96) + int(address))
    assert bool(why_closed(str(mapped))) == bool(plain)
    assert bool(why_closed(str(through_nat64))) == bool(plain)


@given(st.ip_addresses())
def test_what_python_does_not_call_global_is_never_open(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if not address.is_global and getattr(address, "ipv4_mapped", None) is None:
        assert why_closed(str(address))


def test_this_machines_addresses_are_known_as_its_own() -> None:
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.1")
