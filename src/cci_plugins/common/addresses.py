"""IP addresses: public, private, or a cloud's metadata service.

Standard library only: the source of this module is also sent into sessions.
"""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNICAST = ipaddress.ip_network("2000::/3")  # all that IANA has allocated of IPv6
# special networks that Python 3.11 does not know
_SPECIAL = (
    ipaddress.ip_network("192.88.99.0/24"),
    ipaddress.ip_network("2001::/23"),
    ipaddress.ip_network("3fff::/20"),
)
_IPV4_MAPPED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::ffff:0:0/96"))
_6TO4 = ipaddress.ip_network("2002::/16")
_METADATA = (
    ipaddress.ip_address("168.63.129.16"),  # Azure's, although it looks public
    ipaddress.ip_address("100.100.100.200"),
    ipaddress.ip_address("192.0.0.192"),
    ipaddress.ip_address("fd00:ec2::254"),
)


def parse_address(text: str) -> Address | None:
    """Parse an address, and convert IPv6 that leads to IPv4. Return None if it is invalid."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _IPV4_MAPPED):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address in _6TO4:
            return ipaddress.IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return address


def is_metadata(address: Address) -> bool:
    """Return whether a machine can get its own keys there: cloud services, all of link-local."""
    return address.is_link_local or address in _METADATA


def is_public(text: str) -> bool:
    """Return whether text is an address of the public internet."""
    address = parse_address(text)
    if address is None or is_metadata(address) or any(address in network for network in _SPECIAL):
        return False
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
