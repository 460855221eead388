"""Shadow accounts: the LibreChat account of one (person, workspace) pair, and the right to act as it.

Created on first use through LibreChat's register route; the password is derived, never stored, never shown (design §4).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import jwt
from cachetools import LRUCache

from geko_proxy.errors import UpstreamError
from geko_proxy.librechat_client import LibreChatClient, SignedIn

if TYPE_CHECKING:
    from geko_proxy.accounts.shadow_store import ShadowStore

log = logging.getLogger("geko.shadow")

MINTED_FOR_S = 120
RENEW_BEFORE_S = 60
MAX_MINTED = 20_000
MAX_KNOWN = 100_000
_OBJECT_ID = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class Shadow:
    """A LibreChat account. librechat_user_id: 24 hex digits."""

    librechat_user_id: str
    email: str


class Credentials(Protocol):
    """How GEKO acts as a shadow account."""

    async def bearer(self, shadow: Shadow) -> str:
        """A bearer that LibreChat accepts for this account. Raises UpstreamError."""

    async def refresh_cookie(self, shadow: Shadow) -> str:
        """The value of LibreChat's `refreshToken` cookie, which its picture route wants (contract §2.6)."""


class MintedCredentials:
    """identity = "mint": signs LibreChat's own short-lived tokens with the shared secrets (contract §2.10 b)."""

    def __init__(self, jwt_secret: str, jwt_refresh_secret: str | None) -> None:
        self._secret = jwt_secret
        self._refresh_secret = jwt_refresh_secret
        self._bearers: dict[str, tuple[str, float]] = {}
        self._cookies: dict[str, tuple[str, float]] = {}

    async def bearer(self, shadow: Shadow) -> str:
        return self._token(self._bearers, self._secret, shadow.librechat_user_id)

    async def refresh_cookie(self, shadow: Shadow) -> str:
        if self._refresh_secret is None:
            return ""
        return self._token(self._cookies, self._refresh_secret, shadow.librechat_user_id)

    @staticmethod
    def _token(cache: dict[str, tuple[str, float]], secret: str, user_id: str) -> str:
        now = time.time()
        cached = cache.get(user_id)
        if cached is not None and cached[1] > now:
            return cached[0]
        if not _OBJECT_ID.fullmatch(user_id):  # anything else would reach LibreChat's database query
            raise UpstreamError("a shadow account has no valid LibreChat id")
        claims = {"id": user_id, "iat": int(now), "exp": int(now) + MINTED_FOR_S}
        token = jwt.encode(claims, secret, algorithm="HS256")
        if len(cache) >= MAX_MINTED:
            cache.clear()  # they live for a minute: cheaper than keeping order
        cache[user_id] = (token, now + MINTED_FOR_S - RENEW_BEFORE_S)
        return token


class LoginCredentials:
    """identity = "login": signs in as the account and refreshes, for operators who don't share the secret."""

    def __init__(self, client: LibreChatClient, passwords: ShadowPasswords) -> None:
        self._client = client
        self._passwords = passwords
        self._sessions: LRUCache[str, tuple[SignedIn, float]] = LRUCache(10_000)
        self._locks: LRUCache[str, asyncio.Lock] = LRUCache(10_000)

    async def bearer(self, shadow: Shadow) -> str:
        return (await self._session(shadow)).token

    async def refresh_cookie(self, shadow: Shadow) -> str:
        return (await self._session(shadow)).refresh_token

    async def _session(self, shadow: Shadow) -> SignedIn:
        lock = self._locks.setdefault(shadow.email, asyncio.Lock())
        async with lock:  # LibreChat's refresh tokens work once
            known = self._sessions.get(shadow.email)
            if known is not None and known[1] > time.time():
                return known[0]
            session = await self._client.refresh(known[0].refresh_token) if known is not None else None
            if session is None or not session.refresh_token:
                session = await self._client.login(shadow.email, self._passwords.of(shadow.email))
            if session is None:
                raise UpstreamError("LibreChat does not accept a shadow account's password")
            expires = jwt.decode(session.token, options={"verify_signature": False}).get("exp", 0)
            self._sessions[shadow.email] = (session, float(expires) - RENEW_BEFORE_S)
            return session


class ShadowPasswords:
    """Derives e-mail and password of shadow accounts from one secret, by HMAC-SHA-256 (RFC 2104)."""

    def __init__(self, secret: str, email_domain: str) -> None:
        self._secret = secret.encode()
        self._domain = email_domain

    def email(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> str:
        """The address of a person in a workspace; says nothing about either."""
        key = b"email:" + tenant_id.bytes + workspace_id.bytes + user_id.bytes
        return f"u-{hmac.new(self._secret, key, hashlib.sha256).hexdigest()[:32]}@{self._domain}"

    def service_email(self) -> str:
        """The address of GEKO's own account, which takes the ADMIN place of the first one (contract trap 4)."""
        return f"s-{hmac.new(self._secret, b'service', hashlib.sha256).hexdigest()[:32]}@{self._domain}"

    def of(self, email: str) -> str:
        """The password of an address: 43 characters of base64url."""
        digest = hmac.new(self._secret, b"password:" + email.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class ShadowAccounts:
    """Finds or creates the shadow account of a person in a workspace."""

    def __init__(
        self,
        store: ShadowStore,
        client: LibreChatClient,
        passwords: ShadowPasswords,
        credentials: Credentials,
    ) -> None:
        self.credentials = credentials
        self._store = store
        self._client = client
        self._passwords = passwords
        self._known: dict[tuple[UUID, UUID], Shadow] = {}
        self._service_ready = False

    async def get(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> Shadow:
        """The account; made on first use, once, however many requests race. Raises UpstreamError."""
        shadow = self._known.get((workspace_id, user_id))
        if shadow is None:
            row = await self._store.get(tenant_id, workspace_id, user_id)
            if row is None:
                shadow = await self._create(tenant_id, workspace_id, user_id)
            else:
                shadow = Shadow(row.librechat_user_id, row.email)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[(workspace_id, user_id)] = shadow
        return shadow

    async def bearer(self, shadow: Shadow) -> str:
        """A bearer that LibreChat accepts for this account."""
        return await self.credentials.bearer(shadow)

    def forget(self, workspace_id: UUID, user_id: UUID) -> None:
        """Drop what is remembered of an account, after it was deleted."""
        self._known.pop((workspace_id, user_id), None)

    async def _create(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> Shadow:
        async with self._store.creation_lock(tenant_id, workspace_id, user_id) as scope:
            row = await self._store.get(tenant_id, workspace_id, user_id, scope=scope)
            if row is not None:
                return Shadow(row.librechat_user_id, row.email)
            await self._ensure_service_account()
            email = self._passwords.email(tenant_id, workspace_id, user_id)
            signed_in = await self._register(email, "GEKO user")
            account = signed_in.user
            librechat_user_id = str(account.get("id") or account.get("_id"))
            if account.get("role") != "USER" or not _OBJECT_ID.fullmatch(librechat_user_id):
                raise UpstreamError("LibreChat gave a shadow account another role than USER")
            row = await self._store.put_if_absent(
                tenant_id,
                workspace_id,
                user_id,
                librechat_user_id=librechat_user_id,
                email=email,
                scope=scope,
            )
            log.info("created a shadow account in LibreChat for workspace %s", workspace_id)
            return Shadow(row.librechat_user_id, row.email)

    async def _ensure_service_account(self) -> None:
        if not self._service_ready:
            await self._register(self._passwords.service_email(), "GEKO service")
            self._service_ready = True

    async def _register(self, email: str, name: str) -> SignedIn:
        password = self._passwords.of(email)
        signed_in = await self._client.login(email, password)
        if signed_in is None:
            await self._client.register(email, password, name)
            signed_in = await self._client.login(email, password)
        if signed_in is None:
            raise UpstreamError(
                "LibreChat did not create an account: is ALLOW_REGISTRATION on there, and is"
                " librechat.shadow_secret the one the accounts were made with?"
            )
        return signed_in
