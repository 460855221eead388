"""GEKO's access tokens: JWTs that say who acts, in which tenant and workspace, with which role."""

from __future__ import annotations

from dataclasses import dataclass
from time import time
from typing import Any, Final
from uuid import UUID, uuid4

import jwt
from cachetools import LRUCache

from geko_proxy.errors import GekoError
from geko_proxy.workspaces.roles import Role

ALGORITHM: Final = "HS256"
MIN_SECRET_BYTES: Final = 32  # RFC 7518, 3.2
MAX_TOKEN_LENGTH: Final = 4096
MAX_CLOCK_SKEW_S: Final = 60
CLAIMS: Final = ("sub", "tenantId", "workspaceId", "role", "type", "exp", "iat", "jti", "iss", "aud", "sid")


class InvalidToken(GekoError):
    """An access token that GEKO does not accept. reason: for the log, not for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. expires_at: when the token ends, Unix seconds; ignored by `issue`."""

    user_id: UUID
    tenant_id: UUID
    workspace_id: UUID
    role: Role
    session_id: UUID
    expires_at: float = 0.0


class AccessTokens:
    """Issues and verifies access tokens, all instances with the same secret.

    secret: at least 32 bytes. issuer, audience: must match in a token. ttl_s: a token's life in seconds.
    max_cached: verified tokens remembered. Raises ValueError for a secret that is too short.
    """

    def __init__(
        self, secret: str, *, issuer: str, audience: str, ttl_s: int = 900, max_cached: int = 10_000
    ) -> None:
        if len(secret.encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"the token secret must have at least {MIN_SECRET_BYTES} bytes")
        self._secret = secret
        self._issuer = issuer
        self._audience = audience
        self._ttl_s = ttl_s
        self._verified: LRUCache[str, Identity] = LRUCache(max_cached)

    def issue(self, identity: Identity, session_id: UUID, now: float | None = None) -> str:
        """A token for this identity in this session. now: Unix seconds, the clock's when None."""
        issued_at = int(time() if now is None else now)
        claims = {
            "sub": str(identity.user_id),
            "tenantId": str(identity.tenant_id),
            "workspaceId": str(identity.workspace_id),
            "role": identity.role.value,
            "type": "access",
            "exp": issued_at + self._ttl_s,
            "iat": issued_at,
            "jti": uuid4().hex,
            "iss": self._issuer,
            "aud": self._audience,
            "sid": str(session_id),
        }
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    def verify(self, token: str, now: float) -> Identity:
        """The identity in a token; now: Unix seconds.

        Says nothing about the session: it may have been revoked since. Raises InvalidToken.
        """
        identity = self._verified.get(token)
        if identity is None:
            identity = self._decode(token, now)
            self._verified[token] = identity
        if identity.expires_at <= now:
            self._verified.pop(token, None)
            raise InvalidToken("expired")
        return identity

    def _decode(self, token: str, now: float) -> Identity:
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidToken("too long")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                # The times are checked by the caller's clock.
                options={"require": list(CLAIMS), "verify_exp": False, "verify_iat": False},
            )
        except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
            raise InvalidToken(str(error) or type(error).__name__) from error
        return read_identity(claims, now)


def read_identity(claims: dict[str, Any], now: float) -> Identity:
    """The identity in the claims of a token with a good signature. Raises InvalidToken."""
    if claims["type"] != "access":
        raise InvalidToken("not an access token")
    if not is_number(claims["exp"]) or not is_number(claims["iat"]):
        raise InvalidToken("exp and iat must be numbers")
    if claims["iat"] > now + MAX_CLOCK_SKEW_S:
        raise InvalidToken("issued in the future")
    try:
        return Identity(
            user_id=UUID(claims["sub"]),
            tenant_id=UUID(claims["tenantId"]),
            workspace_id=UUID(claims["workspaceId"]),
            role=Role(claims["role"]),
            session_id=UUID(claims["sid"]),
            expires_at=float(claims["exp"]),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidToken(f"bad claim: {error}") from error


def is_number(value: object) -> bool:
    """Whether a JSON value is a number (a bool is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
