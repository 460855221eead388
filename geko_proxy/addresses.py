"""What counts as one client address."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

IPV6_NETWORK: Final = 64  # what one customer of a provider has at least


def network_of(ip: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one; anything else as it stands."""
    return _network(ip) if ":" in ip else ip


@lru_cache(10_000)
def _network(ip: str) -> str:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), IPV6_NETWORK), strict=False))
