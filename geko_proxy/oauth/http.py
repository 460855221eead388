"""Requests to identity providers: bounded in time and size, no redirects, no cookies, JSON only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from geko_proxy.oauth.errors import unavailable

TIMEOUT_S: Final = 10.0
MAX_BYTES: Final = 256 * 1024
HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "GEKO"}
FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's reply: the status and the decoded JSON."""

    status: int
    value: Any

    def members(self) -> dict[str, Any]:
        """The reply as an object. Raises OAuthFailed."""
        if not isinstance(self.value, dict):
            raise unavailable(f"status {self.status}: the reply is no JSON object")
        return self.value


class ProviderHttp:
    """One pool of connections for all providers.

    timeout_s: for a whole request; max_bytes: largest reply that is read.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, max_bytes: int = MAX_BYTES) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET JSON. Raises OAuthFailed "provider_unavailable" for everything that is no answer."""
        return await self._send("GET", url, headers or {}, None)

    async def post_form(self, url: str, body: str, headers: Mapping[str, str] | None = None) -> Answer:
        """POST an encoded form, read JSON. Raises as `get`."""
        return await self._send("POST", url, {**(headers or {}), "Content-Type": FORM}, body)

    async def _send(self, method: str, url: str, headers: Mapping[str, str], body: str | None) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar(), headers=HEADERS
            )
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as reply:
                raw = await self._read(reply)
                return Answer(reply.status, decoded(raw, reply.status))
        except TimeoutError:
            raise unavailable(f"{method} {url}: no answer in {self._timeout.total} s") from None
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise unavailable(f"{method} {url}: {type(error).__name__}: {error}") from None

    async def _read(self, reply: aiohttp.ClientResponse) -> bytes:
        raw = bytearray()
        async for chunk in reply.content.iter_any():
            raw += chunk
            if len(raw) > self._max_bytes:
                reply.close()
                raise ValueError(f"more than {self._max_bytes} bytes")
        return bytes(raw)


def decoded(raw: bytes, status: int) -> Any:
    """The JSON of a reply. Raises OAuthFailed."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise unavailable(f"status {status}: the reply is not JSON") from None


def bearer(access_token: str) -> dict[str, str]:
    """The headers of a request in a person's name."""
    return {"Authorization": f"Bearer {access_token}"}
