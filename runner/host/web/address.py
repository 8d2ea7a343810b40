"""Which network addresses a stranger may have the host call. Pure.

The registries behind it: https://www.iana.org/assignments/iana-ipv4-special-registry and
https://www.iana.org/assignments/iana-ipv6-special-registry . Python's ``is_global`` follows them,
but takes multicast, transition addresses and unassigned space for global, and its answers change
with its patch releases; so what matters is written down here.
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# Clouds answer here with the credentials of the machine, on the last one from public space.
_METADATA_V4 = (
    IPv4Network("169.254.0.0/16"),
    IPv4Network("100.100.100.200/32"),
    IPv4Network("192.0.0.192/32"),
    IPv4Network("168.63.129.16/32"),
)
_METADATA_V6 = (IPv6Network("fe80::/10"), IPv6Network("fd00:ec2::/32"))
_CLOSED_V4 = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("198.18.0.0/15"),
)
_UNICAST_V6 = IPv6Network("2000::/3")
_CLOSED_V6 = (
    IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    IPv6Network("2001:db8::/32"),
    IPv6Network("2002::/16"),  # 6to4: reaches the IPv4 address that it holds
    IPv6Network("3fff::/20"),
)
_NAT64 = IPv6Network("64:ff9b::/96")


def why_closed(text: str, *, allow_private: bool = False) -> str:
    """Why the address may not be called; empty when it may.

    Args:
        text: an address as the resolver gives it.
        allow_private: lets all pass that is not a cloud's metadata service.
    """
    if "%" in text:
        return "a link-local address"
    try:
        address = _meant(ipaddress.ip_address(text))
    except ValueError:
        return "no IP address"
    metadata = _METADATA_V4 if isinstance(address, IPv4Address) else _METADATA_V6
    if any(address in network for network in metadata):
        return "a link-local or metadata address"
    if allow_private:
        return ""
    if address.is_multicast:
        return "a multicast address"
    if isinstance(address, IPv4Address):
        closed = not address.is_global or any(address in network for network in _CLOSED_V4)
    else:
        closed = (
            address not in _UNICAST_V6
            or not address.is_global
            or any(address in network for network in _CLOSED_V6)
        )
    return "not an address of the public internet" if closed else ""


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside of one that a kernel or a NAT64 gateway would call by IPv4."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
