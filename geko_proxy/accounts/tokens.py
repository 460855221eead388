"""GEKO's access tokens: JWTs that say who acts, in which tenant and workspace, with which role."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from math import inf
from time import time
from typing import Any, Final
from uuid import UUID, uuid4

import jwt
import msgspec
from cachetools import LRUCache

from geko_proxy.accounts.signing_keys import KeyRing, PrivateKey, PublicKey
from geko_proxy.errors import GekoError
from geko_proxy.workspaces.roles import Role

SHARED: Final = "HS256"
MIN_SECRET_BYTES: Final = 32  # RFC 7518, 3.2
MAX_TOKEN_LENGTH: Final = 4096
MAX_CLOCK_SKEW_S: Final = 60
MAX_LIFE_S: Final = 86_400 + MAX_CLOCK_SKEW_S  # the longest access_token_ttl_s
CLAIMS: Final = ("sub", "tenantId", "workspaceId", "role", "type", "exp", "iat", "jti", "iss", "aud", "sid")
COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
KID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class InvalidToken(GekoError):
    """An access token that GEKO does not accept. reason: for the log, not for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnknownKey(InvalidToken):
    """The token names a key that is not known here: one that was never there, is retired, or is quite new."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a token's header may hold: never a key, nor where to get one (jwk, jku, x5c, x5u), nor crit."""

    alg: str
    typ: str = "JWT"
    kid: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. expires_at: when the token ends, Unix seconds; ignored by `issue`."""

    user_id: UUID
    tenant_id: UUID
    workspace_id: UUID
    role: Role
    session_id: UUID
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a token is checked with. The algorithm is the key's, whatever the token says."""

    key: PublicKey | str
    algorithm: str
    ends_at: float = inf


class AccessTokens:
    """Issues and verifies access tokens, all instances with the same keys.

    secret: at least 32 bytes; signs if `signing` is HS256, else it only verifies, and an empty one does not even that.
    signing: the algorithm of new tokens; other keys than the secret come by `use`. issuer, audience: must match in a
    token. ttl_s: a token's life in seconds. max_cached: verified tokens remembered. Raises ValueError for a secret that
    is too short.
    """

    def __init__(
        self,
        secret: str,
        *,
        issuer: str,
        audience: str,
        ttl_s: int = 900,
        max_cached: int = 10_000,
        signing: str = SHARED,
    ) -> None:
        if (secret or signing == SHARED) and len(secret.encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"the token secret must have at least {MIN_SECRET_BYTES} bytes")
        self._secret = secret
        self._signing = signing
        self._issuer = issuer
        self._audience = audience
        self._ttl_s = ttl_s
        self._ring = KeyRing()
        self._verified: LRUCache[str, Identity] = LRUCache(max_cached)
        self._forget: list[Callable[[], None]] = []
        self._refresh: Callable[[], Awaitable[None]] | None = None

    @property
    def ring(self) -> KeyRing:
        """The keys known now; another object after each change."""
        return self._ring

    def use(self, ring: KeyRing) -> None:
        """From now on these are the keys; what was verified before is checked anew."""
        self._ring = ring
        self._verified.clear()
        for forget in self._forget:
            forget()

    def on_change(self, forget: Callable[[], None]) -> None:
        """Call `forget` when the keys change: whoever remembers verified tokens must not any longer."""
        self._forget.append(forget)

    def refresh_by(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """How to look for new keys when a token names an unknown one. It limits its own rate."""
        self._refresh = refresh

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
        key, headers = self._signer(issued_at)
        return jwt.encode(claims, key, algorithm=self._signing, headers=headers)

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

    async def check(self, token: str, now: float) -> Identity:
        """As `verify`, but looks for a new key before a token of an unknown one is refused. Raises StoreError too."""
        try:
            return self.verify(token, now)
        except UnknownKey:
            if self._refresh is None:
                raise
            await self._refresh()
            return self.verify(token, now)

    def _signer(self, now: float) -> tuple[str | PrivateKey, dict[str, str] | None]:
        if self._signing == SHARED:
            return self._secret, None
        key = self._ring.signer(self._signing, now)
        if key is None or key.private is None:
            raise RuntimeError(f"there is no key that signs {self._signing}")
        return key.private, {"kid": key.kid}

    def _verifier(self, header: Header) -> Verifier:
        """The key that a header names. One without `kid` means the shared secret, which has no name."""
        if header.kid is None:
            if not self._secret:
                raise InvalidToken("no kid")
            return Verifier(self._secret, SHARED)
        if KID.fullmatch(header.kid) is None:
            raise InvalidToken("a kid that no key has")
        key = self._ring.find(header.kid)
        if key is None:
            raise UnknownKey("unknown kid")
        return Verifier(key.public, key.algorithm, key.ends_at)

    def _decode(self, token: str, now: float) -> Identity:
        header = read_header(token)
        verifier = self._verifier(header)
        if header.alg != verifier.algorithm:
            raise InvalidToken("not the algorithm of its key")
        if verifier.ends_at <= now:
            raise InvalidToken("its key is over")
        try:
            claims = jwt.decode(
                token,
                verifier.key,
                algorithms=[verifier.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                # The times are checked by the caller's clock.
                options={
                    "require": list(CLAIMS),
                    "strict_aud": True,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
            raise InvalidToken(str(error) or type(error).__name__) from error
        identity = read_identity(claims, now)
        if identity.expires_at <= verifier.ends_at:
            return identity
        return replace(identity, expires_at=verifier.ends_at)


def read_header(token: str) -> Header:
    """The header of a token in the one spelling that there is of it. Raises InvalidToken.

    Padding, and bits that base64 ignores, would give one token many spellings (RFC 7515 §2, RFC 4648 §3.5).
    """
    if len(token) > MAX_TOKEN_LENGTH:
        raise InvalidToken("too long")
    parts = COMPACT.fullmatch(token)
    if parts is None:
        raise InvalidToken("not three parts of base64url")
    content = [canonical(part) for part in parts.groups()]
    try:
        header = msgspec.json.decode(content[0], type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidToken(f"bad header: {error}") from None
    if header.typ != "JWT":
        raise InvalidToken("not a JWT")
    return header


def canonical(part: str) -> bytes:
    """What is in a part of a token. Raises InvalidToken for a spelling that encoding it would not give."""
    try:
        content = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise InvalidToken("not base64url") from None
    if base64.urlsafe_b64encode(content).rstrip(b"=") != part.encode():
        raise InvalidToken("not the canonical base64url")
    return content


def read_identity(claims: dict[str, Any], now: float) -> Identity:
    """The identity in the claims of a token with a good signature. Raises InvalidToken."""
    if claims["type"] != "access":
        raise InvalidToken("not an access token")
    check_times(claims, now)
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


def check_times(claims: dict[str, Any], now: float) -> None:
    """Raises InvalidToken for a token from the future, or one that lives longer than any that GEKO issues."""
    begins = [claims["iat"], *([claims["nbf"]] if "nbf" in claims else [])]
    if not is_number(claims["exp"]) or not all(map(is_number, begins)):
        raise InvalidToken("exp, iat and nbf must be numbers")
    if not all(begin <= now + MAX_CLOCK_SKEW_S for begin in begins):  # so that NaN is refused too
        raise InvalidToken("issued in the future, or not valid yet")
    if not claims["exp"] <= now + MAX_LIFE_S:
        raise InvalidToken("ends too late")


def is_number(value: object) -> bool:
    """Whether a JSON value is a number (a bool is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
