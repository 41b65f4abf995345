"""Which IP addresses are of the internet; standard library only."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNICAST = ipaddress.ip_network("2000::/3")  # all that IANA has given out of IPv6
# what Python 3.11 does not know yet to be special
_SPECIAL = (
    ipaddress.ip_network("192.88.99.0/24"),
    ipaddress.ip_network("2001::/23"),
    ipaddress.ip_network("3fff::/20"),
)
_MAPPED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::ffff:0:0/96"))
_6TO4 = ipaddress.ip_network("2002::/16")
_METADATA = (
    ipaddress.ip_address("168.63.129.16"),  # of Azure, though it looks public
    ipaddress.ip_address("100.100.100.200"),
    ipaddress.ip_address("192.0.0.192"),
    ipaddress.ip_address("fd00:ec2::254"),
)


def parse_address(text: str) -> Address | None:
    """Read an address, and see through IPv6 that leads to IPv4; None when it is none."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        if any(found in network for network in _MAPPED):
            return ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if found in _6TO4:
            return ipaddress.IPv4Address(int(found) >> 80 & 0xFFFFFFFF)
    return found


def is_metadata(found: Address) -> bool:
    """Whether a machine asks for its own keys there: a cloud's services, and all link-local."""
    return found.is_link_local or found in _METADATA


def is_public(text: str) -> bool:
    """Whether an address is one of the internet."""
    found = parse_address(text)
    if found is None or is_metadata(found) or any(found in network for network in _SPECIAL):
        return False
    if isinstance(found, ipaddress.IPv6Address) and found not in _UNICAST:
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved
