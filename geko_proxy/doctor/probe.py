"""Single requests as the doctor makes them: every header is its own choice, the whole reply is looked at."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from geko_proxy.errors import UpstreamError
from geko_proxy.headers import BROWSER_USER_AGENT
from geko_proxy.upstream import Upstream

MAX_BYTES: Final = 8 * 1024 * 1024
TIMEOUT_MS: Final = 15_000


@dataclass(frozen=True, slots=True)
class Seen:
    """A reply. value: its body as JSON, None if it is none."""

    status: int
    headers: dict[str, str]
    value: Any

    @property
    def object(self) -> dict[str, Any]:
        """The body if it is a JSON object; else an empty one."""
        return self.value if isinstance(self.value, dict) else {}

    def number(self, header: str) -> int | None:
        """A header's number."""
        text = self.headers.get(header, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


class Probe:
    """Asks one server. Raises UpstreamError where no reply comes."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def ask(
        self,
        method: str,
        path: str,
        *,
        bearer: str = "",
        cookie: str = "",
        body: Any = None,
        address: str = "127.0.0.1",
        user_agent: str = BROWSER_USER_AGENT,
        accept_encoding: str = "identity",
        headers: dict[str, str] | None = None,
    ) -> Seen:
        """One request. address: of the client, as a proxy would say it (X-Forwarded-For)."""
        given = {
            "user-agent": user_agent,
            "accept": "application/json",
            "accept-encoding": accept_encoding,
            "x-forwarded-for": address,
            **({"authorization": f"Bearer {bearer}"} if bearer else {}),
            **({"cookie": cookie} if cookie else {}),
            **({"content-type": "application/json"} if body is not None else {}),
            **(headers or {}),
        }
        reply = await self._upstream.request(
            method,
            path,
            [(name.encode(), value.encode()) for name, value in given.items()],
            None if body is None else msgspec.json.encode(body),
            timeout_ms=TIMEOUT_MS,
        )
        raw = await reply.read(MAX_BYTES)
        said = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in reply.headers}
        return Seen(reply.status, said, _decoded(raw, said))

    async def answers(self, path: str) -> bool:
        """Whether it answers 200."""
        try:
            return (await self.ask("GET", path)).status == 200
        except UpstreamError:
            return False


def somebody() -> str:
    """An address that no client has: of the network for tests of devices (RFC 2544)."""
    return f"198.{18 + secrets.randbelow(2)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"


def _decoded(raw: bytes, headers: dict[str, str]) -> Any:
    if headers.get("content-encoding", "identity") != "identity":
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
