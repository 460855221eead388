"""Reads what the client sent: its body, bounded, and its address, believing only trusted proxies."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from aiohttp import web

from geko_proxy.errors import Refused

SILENT_S = 30.0  # longest pause inside a request body


class BodyReader:
    """The client's body as a source; refuses what is longer than `limit` bytes."""

    __slots__ = ("_content", "_size", "limit")

    def __init__(self, request: web.BaseRequest, limit: int) -> None:
        self._content = request.content
        self._size = 0
        self.limit = limit
        if (request.content_length or 0) > limit:
            self._size = request.content_length or 0

    async def read_chunk(self) -> bytes:
        """The next bytes. Raises Refused 413 beyond the limit, 408 when none come."""
        if self._size > self.limit:
            raise self._too_large()
        content = self._content
        chunk = await (content.readany() if content.is_eof() else self._wait())
        self._size += len(chunk)
        if self._size > self.limit:
            raise self._too_large()
        return chunk

    async def _wait(self) -> bytes:
        try:
            async with asyncio.timeout(SILENT_S):
                return await self._content.readany()
        except TimeoutError:
            text = "The request body did not arrive."
            raise Refused(408, "body_timeout", text, headers={"Connection": "close"}) from None

    def _too_large(self) -> Refused:
        return Refused(413, "body_too_large", f"The request body is larger than {self.limit} bytes.")

    def close(self) -> None:
        """aiohttp discards what is left."""


class ClientAddress:
    """Finds the client's address: X-Forwarded-For counts only from trusted proxies, right to left (RFC 7239 §8.1)."""

    def __init__(self, trusted: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> None:
        self._trusted = tuple(trusted)
        self._is_trusted = lru_cache(4096)(self._in_trusted)

    def of(self, request: web.BaseRequest) -> str:
        """The address of the client, as text."""
        peer = request.remote or "127.0.0.1"
        if not self._trusted or not self._is_trusted(peer):
            return peer
        entries = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
        for entry in reversed([each.strip() for each in entries if each.strip()]):
            if not self._is_trusted(entry):
                return entry if _is_address(entry) else peer
        return peer

    def is_secure(self, request: web.BaseRequest) -> bool:
        """Whether the client speaks https, as far as a trusted proxy says so."""
        if request.secure:
            return True
        peer = request.remote or ""
        if not self._trusted or not self._is_trusted(peer):
            return False
        return request.headers.get("X-Forwarded-Proto", "").split(",")[-1].strip().lower() == "https"

    def is_plain(self, request: web.BaseRequest) -> bool:
        """Whether a trusted proxy says that the client came without https."""
        if not self._trusted or not self._is_trusted(request.remote or ""):
            return False
        return request.headers.get("X-Forwarded-Proto", "").split(",")[-1].strip().lower() == "http"

    def _in_trusted(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
