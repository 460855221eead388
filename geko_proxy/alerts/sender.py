"""One attempt to deliver a webhook: bounded in time and size, no redirects, no cookies, no proxy, checked addresses."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from geko_proxy.alerts.signing import signed_headers
from geko_proxy.alerts.targets import ForbiddenAddress, ForbiddenTarget, Targets, check_form

MAX_REPLY_BYTES: Final = 64 * 1024
MAX_RETRY_AFTER_S: Final = 86_400.0
HEADERS: Final = {"User-Agent": "GEKO-Webhooks", "Accept": "*/*", "Content-Type": "application/json"}
GONE: Final = 410


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of it. status: None when there was no reply; error: "" when it was delivered; retry_after_s: what the
    receiver asked for."""

    status: int | None = None
    error: str = ""
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver has taken it."""
        return not self.error

    @property
    def gone(self) -> bool:
        """Whether the receiver wants nothing more, ever (Standard Webhooks: 410)."""
        return self.status == GONE


class NamesOfReceivers(AbstractResolver):
    """Looks names up for aiohttp, and gives it only addresses that are allowed."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises ForbiddenAddress where none is allowed."""
        found = [
            ResolveResult(
                hostname=host,
                host=str(place[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, place in await self._targets.look_up(host, port, family)
            if self._targets.allows(str(place[0]))
        ]
        if not found:
            raise ForbiddenAddress("the host has no address that webhooks may reach")
        return found

    async def close(self) -> None:
        """Nothing is open."""


class WebhookSender:
    """Sends signed messages. timeout_s: for a whole attempt."""

    def __init__(self, targets: Targets, timeout_s: float) -> None:
        self._targets = targets
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
        self._targets.close()

    async def send(self, url: str, secret: str, name: str, payload: str) -> Attempt:
        """POST a message. Never raises for what a receiver does."""
        try:
            check_form(url)  # the rules may have changed since it was saved
            headers = {**HEADERS, **signed_headers(secret, name, payload, datetime.now(UTC))}
            async with self._opened().post(
                url, data=payload.encode(), headers=headers, allow_redirects=False
            ) as reply:
                await read_some(reply)
                return attempt_of(reply)
        except TimeoutError:
            return Attempt(error=f"no reply within {self._timeout.total:g} s")
        except (ForbiddenTarget, ForbiddenAddress) as error:
            return Attempt(error=str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Attempt(error=described(error))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=NamesOfReceivers(self._targets),
                socket_factory=self._targets.open_socket,
                use_dns_cache=False,
                force_close=True,
                limit=0,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


async def read_some(reply: aiohttp.ClientResponse) -> None:
    """Read a reply to its end, so that the receiver is not cut off, but not without bounds."""
    size = 0
    async for chunk in reply.content.iter_any():
        size += len(chunk)
        if size > MAX_REPLY_BYTES:
            break
    if size > MAX_REPLY_BYTES:
        reply.close()


def attempt_of(reply: aiohttp.ClientResponse) -> Attempt:
    """Only 2xx is a success (Standard Webhooks); a redirect is not followed, it would lead past the checks."""
    if 200 <= reply.status < 300:
        return Attempt(reply.status)
    return Attempt(reply.status, f"status {reply.status}", retry_after(reply.headers.get("Retry-After", "")))


def retry_after(text: str) -> float | None:
    """The seconds of a Retry-After header (RFC 9110 §10.2.3); None without a meaning."""
    try:
        seconds = (
            float(text)
            if text.isdigit()
            else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        )
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)


def described(error: Exception) -> str:
    """What went wrong, for the admin: nothing that tells of the operator's network."""
    cause: Any = getattr(error, "os_error", None) or error
    if isinstance(cause, ForbiddenAddress):
        return "webhooks may not reach this address"
    if isinstance(error, aiohttp.InvalidURL):
        return "the address is not valid"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "the TLS certificate was not accepted"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host has no address"
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionRefusedError):
        return "no connection"
    return "the reply was not valid HTTP" if isinstance(error, aiohttp.ClientError) else "no connection"
