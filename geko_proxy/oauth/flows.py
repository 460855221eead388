"""One sign-in by a provider while the browser is away: what GEKO must know again when it comes back.

It travels in the browser itself, in a cookie that only GEKO can make and read. That it counts once is in the
database (`OAuthAccounts.use_state`).
"""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]

from geko_proxy.accounts.sealing import BrokenSeal, Sealer

TTL_S: Final = 600
SECRET_BYTES: Final = 32
MAX_COOKIE: Final = 3800  # browsers keep 4096 bytes with name and attributes


class Linker(msgspec.Struct, frozen=True):
    """Who links a provider to the account they are signed in to; ends with the session."""

    tenant_id: UUID
    user_id: UUID
    session_id: UUID


class Flow(msgspec.Struct, frozen=True):
    """state: binds the reply to this browser; nonce: binds the ID token to it (OpenID Connect Core, 3.1.2.1);
    verifier: binds the code to it (RFC 7636). linker: None when somebody signs in.
    """

    provider: str
    state: str
    nonce: str
    verifier: str
    redirect_to: str
    expires_at: int
    linker: Linker | None = None

    @property
    def challenge(self) -> str:
        """What the provider gets to see of the verifier."""
        return str(create_s256_code_challenge(self.verifier))

    def answers(self, state: str | None) -> bool:
        """Whether the state that came back is this flow's; takes the same time for every wrong one."""
        return state is not None and hmac.compare_digest(self.state.encode(), state.encode())


@dataclass(frozen=True, slots=True)
class Flows:
    """Begins flows, and packs them for their cookie."""

    sealer: Sealer

    def begin(self, provider: str, redirect_to: str, linker: Linker | None = None) -> Flow:
        """A flow with fresh secrets."""
        state, nonce, verifier = (secrets.token_urlsafe(SECRET_BYTES) for _ in range(3))
        return Flow(provider, state, nonce, verifier, redirect_to, int(time.time()) + TTL_S, linker)

    def pack(self, flow: Flow) -> str:
        """The value of the cookie."""
        return self.sealer.seal(msgspec.json.encode(flow).decode(), place(flow.provider))

    def unpack(self, provider: str, cookie: str, now: float | None = None) -> Flow | None:
        """The flow of a cookie; None when GEKO did not make it for this provider, or too long ago."""
        if len(cookie) > MAX_COOKIE:
            return None
        try:
            flow = msgspec.json.decode(self.sealer.open(cookie, place(provider)), type=Flow)
        except (BrokenSeal, ValueError):  # not base64, not JSON, of another version
            return None
        current = now if now is not None else time.time()
        return flow if flow.provider == provider and flow.expires_at > current else None


def place(provider: str) -> str:
    """Where the seal belongs: a cookie of one provider is none of another's."""
    return f"oauth_flow/{provider}"
