"""Where webhooks may go: an admin of a workspace must not reach the operator's own networks through GEKO (SSRF).

An address is judged twice: when a webhook is saved, for a clear error, and at each connection, on the very address that
is connected to, so that a name that points elsewhere by then gains nothing (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

from geko_proxy.config.kinds import Network
from geko_proxy.errors import GekoError

MAX_URL: Final = 2000
RESOLVE_TIMEOUT_S: Final = 5.0
LOOK_UPS: Final = 16  # at the same time
NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address inside an IPv6 one
# Public by number, but of the machine's own provider: Azure's platform services answer any of its machines here.
PLATFORM: Final = frozenset({ip_address("168.63.129.16")})
# What is_global of some Python versions takes for public: IANA's registries have changed.
SPECIAL: Final = tuple(
    ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
Address = IPv4Address | IPv6Address


class ForbiddenTarget(GekoError):
    """A webhook must not go there. The text is for the admin who set it up."""


class ForbiddenAddress(OSError):
    """A connection was not made: the address is not allowed. An OSError, as aiohttp takes no other from a socket."""


class Targets:
    """The operator's decision. allowed: networks that webhooks may reach although they are not public."""

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        self._allowed = tuple(allowed)
        # of its own: a name server that lets us wait must not take the threads that count tokens
        self._threads = ThreadPoolExecutor(LOOK_UPS, "webhook names")

    def allows(self, text: str) -> bool:
        """Whether webhooks may connect to this address."""
        try:
            address = ip_address(text.partition("%")[0])  # %: the zone of a link-local address
        except ValueError:
            return False
        return all(self._is_allowed(face) or is_public(face) for face in (address, *embedded(address)))

    def _is_allowed(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._allowed)

    async def check(self, url: str) -> None:
        """Raises ForbiddenTarget for a webhook that could never be delivered."""
        host, port = check_form(url)
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await self.look_up(host, port)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            raise ForbiddenTarget("The host has no address.") from None
        if not any(self.allows(str(place[0])) for *_, place in found):
            raise ForbiddenTarget("The host has no address that webhooks may reach.")

    async def look_up(
        self, host: str, port: int, family: int = socket.AF_UNSPEC
    ) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
        """The addresses of a host. Raises OSError."""
        ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [(int(each[0]), int(each[1]), each[2], each[3], each[4]) for each in found]

    def close(self) -> None:
        """Look nothing up any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def open_socket(self, info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
        """The socket for a connection that aiohttp is about to make. Raises ForbiddenAddress."""
        family, kind, protocol, _, place = info
        if not self.allows(str(place[0])):
            raise ForbiddenAddress("webhooks may not reach this address")
        return socket.socket(family, kind, protocol)


def check_form(url: str) -> tuple[str, int]:
    """Host and port of a webhook's address. Raises ForbiddenTarget."""
    if len(url) > MAX_URL or not url.isascii() or re.search(r"[\s\x00-\x1f\x7f\\]", url):
        raise ForbiddenTarget(f"Must be an address of at most {MAX_URL} printable ASCII characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ForbiddenTarget("Must be an address.") from None
    host = parts.hostname or ""
    if not host or parts.scheme not in ("https", "http") or "://" not in url:
        raise ForbiddenTarget("Must be an https address.")
    if parts.scheme == "http" and not is_loopback(host):
        raise ForbiddenTarget("Must be an https address; http only on this machine, for development.")
    if parts.username is not None or parts.password is not None:
        raise ForbiddenTarget("Must not hold a user name or password.")
    if parts.fragment:
        raise ForbiddenTarget("Must not hold a fragment (#…).")
    return host, port or (443 if parts.scheme == "https" else 80)


def is_loopback(host: str) -> bool:
    """Whether a host is written as this machine."""
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return any(address.version == network.version and address in network for network in LOOPBACK)


def embedded(address: Address) -> tuple[Address, ...]:
    """The IPv4 addresses that an IPv6 address stands for: mapped, 6to4, Teredo, NAT64."""
    if isinstance(address, IPv4Address):
        return ()
    found: list[IPv4Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(each for each in found if each is not None)


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet and a single host's (IANA's special-purpose registries)."""
    if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address in NAT64):
        return True  # what it stands for decides
    if isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST:
        return False
    if any(address.version == network.version and address in network for network in SPECIAL):
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address in PLATFORM
    )
