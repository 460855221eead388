"""Signed-in sessions: families of refresh tokens that are replaced at each use."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from geko_proxy.accounts.refresh_tokens import RefreshToken
from geko_proxy.errors import GekoError
from geko_proxy.storage.cache import Cache
from geko_proxy.storage.database import Database, Scope
from geko_proxy.storage.invalidation import Invalidation

if TYPE_CHECKING:
    from asyncpg import Record

TOPIC: Final = "session"
CACHE_TTL_S: Final = 60
MAX_USER_AGENT: Final = 512

INSERT: Final = """
insert into sessions
    (tenant_id, session_id, user_id, workspace_id, token_hash, ip, user_agent, expires_at)
values ($1, $2, $3, $4, $5, $6, $7, now() + least($8::interval, $9::interval))
returning expires_at"""

# $3: the longest life of a session, which counts at once when it is made shorter
READ: Final = """
select s.tenant_id, s.session_id, s.user_id, s.workspace_id, s.token_hash, s.previous_hash,
    s.rotation_key, s.rotated_at, least(s.expires_at, s.created_at + $3::interval) as expires_at
from sessions s
join users u on u.tenant_id = s.tenant_id and u.user_id = s.user_id
where s.tenant_id = $1 and s.session_id = $2
    and s.revoked_at is null and s.expires_at > now() and s.created_at + $3::interval > now()
    and u.disabled_at is null"""

READ_LOCKED: Final = f"{READ} for update of s"

ROTATE: Final = """
update sessions
set previous_hash = token_hash, token_hash = $3, rotation_key = $4, rotated_at = now(),
    expires_at = least(now() + $5::interval, created_at + $8::interval), ip = $6, user_agent = $7,
    last_seen_at = now()
where tenant_id = $1 and session_id = $2
returning expires_at"""

REVOKE: Final = """
update sessions set revoked_at = now()
where tenant_id = $1 and session_id = $2 and revoked_at is null"""

REVOKE_OTHERS: Final = """
update sessions set revoked_at = now()
where tenant_id = $1 and user_id = $2 and session_id is distinct from $3 and revoked_at is null and expires_at > now()
returning session_id"""

REVOKE_IN_WORKSPACE: Final = """
update sessions set revoked_at = now()
where tenant_id = $1 and user_id = $2 and workspace_id = $3 and revoked_at is null and expires_at > now()
returning session_id"""

REVOKE_OWN: Final = """
update sessions set revoked_at = now()
where tenant_id = $1 and user_id = $2 and session_id = $3 and revoked_at is null and expires_at > now()
returning session_id"""


SWITCH: Final = """
update sessions set workspace_id = $3
where tenant_id = $1 and session_id = $2 and revoked_at is null and expires_at > now()
returning expires_at"""


class InvalidSession(GekoError):
    """The refresh token belongs to no session, or to one that has expired or was revoked."""


class ReusedToken(GekoError):
    """A refresh token was used again after it had been replaced. Its session has been revoked."""

    def __init__(self, tenant_id: UUID, session_id: UUID) -> None:
        super().__init__(f"refresh token of session {session_id} was used again")
        self.tenant_id = tenant_id
        self.session_id = session_id


@dataclass(frozen=True, slots=True)
class Session:
    """A session that is neither expired nor revoked."""

    tenant_id: UUID
    session_id: UUID
    user_id: UUID
    workspace_id: UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session and its first refresh token."""

    session_id: UUID
    refresh_token: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Rotated:
    """A session and the refresh token to use from now on."""

    tenant_id: UUID
    session_id: UUID
    user_id: UUID
    workspace_id: UUID
    expires_at: datetime
    refresh_token: str


@dataclass(frozen=True, slots=True)
class Family:
    """What the database knows of a session's tokens. Its times are the database's clock."""

    session: Session
    token_hash: bytes
    previous_hash: bytes | None
    rotation_key: bytes | None
    rotated_at: datetime

    @classmethod
    def from_row(cls, row: Record) -> Family:
        """The family of a row of READ."""
        fields = ("tenant_id", "session_id", "user_id", "workspace_id", "expires_at")
        session = Session(*(row[field] for field in fields))
        rest = ("token_hash", "previous_hash", "rotation_key", "rotated_at")
        return cls(session, *(row[field] for field in rest))

    def is_current(self, token: RefreshToken) -> bool:
        """Whether this is the newest token."""
        return hmac.compare_digest(token.hash(), self.token_hash)

    def is_previous(self, token: RefreshToken, grace: timedelta, now: datetime) -> bool:
        """Whether this is the token before the newest, replaced less than `grace` ago."""
        if self.previous_hash is None or not hmac.compare_digest(token.hash(), self.previous_hash):
            return False
        return now - self.rotated_at < grace


class Sessions:
    """Opens, renews and ends sessions.

    ttl_s: life of a session after its last renewal. max_ttl_s: its whole life, however often renewed.
    grace_s: how long a replaced token is still answered with its successor: tabs of one browser renew at the same
    moment (contract §2.4), and replies get lost.
    """

    def __init__(
        self,
        database: Database,
        invalidation: Invalidation | None = None,
        ttl_s: float = 7 * 86400,
        grace_s: float = 30,
        max_ttl_s: float = 30 * 86400,
    ) -> None:
        self._database = database
        self._invalidation = invalidation
        self._ttl = timedelta(seconds=ttl_s)
        self._grace = timedelta(seconds=grace_s)
        self._max_ttl = timedelta(seconds=max_ttl_s)
        self._families: Cache[Family | None] = Cache(TOPIC, ttl_s=CACHE_TTL_S, invalidation=invalidation)

    @property
    def generation(self) -> int | None:
        """Changes with each change anywhere; None while changes can't be heard."""
        return self._families.generation

    async def open(
        self, tenant_id: UUID, user_id: UUID, workspace_id: UUID, ip: str | None, user_agent: str | None
    ) -> OpenedSession:
        """Starts a session of a user in a workspace; ip and user_agent are kept for the user to see."""
        token = RefreshToken.first(tenant_id, uuid4())
        async with self._database.tenant(tenant_id) as scope:
            expires_at = await scope.fetch_value(
                INSERT,
                token.session_id,
                user_id,
                workspace_id,
                token.hash(),
                ip,
                printable(user_agent),
                self._ttl,
                self._max_ttl,
            )
        return OpenedSession(token.session_id, token.encode(), expires_at)

    async def rotate(self, refresh_token: str, ip: str | None, user_agent: str | None) -> Rotated:
        """Replaces a refresh token by its successor and prolongs the session.

        The token before the newest one gets the newest again for grace_s seconds; an older one shows that
        somebody holds a copy: the session is revoked. Raises ReusedToken, InvalidSession, StoreError.
        """
        token = parse(refresh_token)
        key = cache_key(token.tenant_id, token.session_id)
        async with self._database.tenant(token.tenant_id) as scope:
            rotated = await self._rotate(scope, token, ip, printable(user_agent))
            await self._announce(scope, key)
        self._families.drop(key)
        # Raised only after the commit: the revocation must stay.
        if rotated is None:
            raise ReusedToken(token.tenant_id, token.session_id)
        return rotated

    async def revoke(self, tenant_id: UUID, session_id: UUID) -> None:
        """Ends a session, on all instances at once."""
        key = cache_key(tenant_id, session_id)
        async with self._database.tenant(tenant_id) as scope:
            await scope.execute(REVOKE, session_id)
            await self._announce(scope, key)
        self._families.drop(key)

    async def revoke_others(self, tenant_id: UUID, user_id: UUID, keep: UUID | None = None) -> int:
        """Ends all sessions of a user but one (None: all), on all instances at once; returns how many."""
        return await self._revoke(tenant_id, REVOKE_OTHERS, user_id, keep)

    async def revoke_in_workspace(self, tenant_id: UUID, user_id: UUID, workspace_id: UUID) -> int:
        """Ends a user's sessions in one workspace, on all instances at once; returns how many."""
        return await self._revoke(tenant_id, REVOKE_IN_WORKSPACE, user_id, workspace_id)

    async def revoke_own(self, tenant_id: UUID, user_id: UUID, session_id: UUID) -> bool:
        """Ends a session if it is this user's; says whether it was and went on."""
        return await self._revoke(tenant_id, REVOKE_OWN, user_id, session_id) == 1

    async def switch(self, tenant_id: UUID, session_id: UUID, workspace_id: UUID) -> datetime | None:
        """Moves a session to another workspace; when it ends, or None when it is over. The caller checks membership."""
        key = cache_key(tenant_id, session_id)
        async with self._database.tenant(tenant_id) as scope:
            expires_at: datetime | None = await scope.fetch_value(SWITCH, session_id, workspace_id)
            await self._announce(scope, key)
        self._families.drop(key)
        return expires_at

    async def find(self, refresh_token: str) -> Session | None:
        """The session of a refresh token that `rotate` would accept, without rotating."""
        try:
            token = parse(refresh_token)
        except InvalidSession:
            return None
        family = await self._family(token.tenant_id, token.session_id)
        if family is None or self._accepts(family, token):
            return None if family is None else family.session
        # Another instance may have rotated a moment ago, so that what we know is old.
        self._families.drop(cache_key(token.tenant_id, token.session_id))
        family = await self._family(token.tenant_id, token.session_id)
        return family.session if family is not None and self._accepts(family, token) else None

    async def is_active(self, tenant_id: UUID, session_id: UUID) -> bool:
        """Whether a session is neither expired nor revoked and its user not disabled; cached for 60 s."""
        return await self._family(tenant_id, session_id) is not None

    async def _revoke(self, tenant_id: UUID, sql: str, *args: object) -> int:
        async with self._database.tenant(tenant_id) as scope:
            rows = await scope.fetch(sql, *args)
            for row in rows:
                await self._announce(scope, cache_key(tenant_id, row["session_id"]))
        for row in rows:
            self._families.drop(cache_key(tenant_id, row["session_id"]))
        return len(rows)

    async def _rotate(
        self, scope: Scope, token: RefreshToken, ip: str | None, user_agent: str | None
    ) -> Rotated | None:
        row = await scope.fetch_row(READ_LOCKED, token.session_id, self._max_ttl)
        if row is None:
            raise InvalidSession("expired, revoked or unknown")
        family = Family.from_row(row)
        if family.is_current(token):
            key = secrets.token_bytes(32)
            successor = token.successor(key)
            expires_at = await scope.fetch_value(
                ROTATE, token.session_id, successor.hash(), key, self._ttl, ip, user_agent, self._max_ttl
            )
            return renewed(family.session, successor, expires_at)
        if family.rotation_key is not None and await self._in_grace(scope, family, token):
            return renewed(family.session, token.successor(family.rotation_key), family.session.expires_at)
        await scope.execute(REVOKE, token.session_id)
        return None

    async def _in_grace(self, scope: Scope, family: Family, token: RefreshToken) -> bool:
        now = await scope.fetch_value("select clock_timestamp() where $1::uuid is not null")
        return family.is_previous(token, self._grace, now)

    def _accepts(self, family: Family, token: RefreshToken) -> bool:
        return family.is_current(token) or family.is_previous(token, self._grace, datetime.now(UTC))

    async def _family(self, tenant_id: UUID, session_id: UUID) -> Family | None:
        key = cache_key(tenant_id, session_id)
        family = await self._families.get(key, lambda: self._load(tenant_id, session_id))
        return family if family is not None and family.session.expires_at > datetime.now(UTC) else None

    async def _load(self, tenant_id: UUID, session_id: UUID) -> Family | None:
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(READ, session_id, self._max_ttl)
        return None if row is None else Family.from_row(row)

    async def _announce(self, scope: Scope, key: str) -> None:
        if self._invalidation is not None:
            await self._invalidation.publish(scope, TOPIC, key)


def renewed(session: Session, token: RefreshToken, expires_at: datetime) -> Rotated:
    """The answer to a rotation."""
    return Rotated(
        session.tenant_id,
        session.session_id,
        session.user_id,
        session.workspace_id,
        expires_at,
        token.encode(),
    )


def parse(text: str) -> RefreshToken:
    """The parts of a refresh token. Raises InvalidSession when it is none."""
    try:
        return RefreshToken.decode(text)
    except ValueError as error:
        raise InvalidSession("not a refresh token") from error


def printable(user_agent: str | None) -> str | None:
    """A User-Agent as it can be stored and shown."""
    if user_agent is None:
        return None
    return "".join(character for character in user_agent if character.isprintable())[:MAX_USER_AGENT]


def cache_key(tenant_id: UUID, session_id: UUID) -> str:
    """The key of a session in the cache and in announcements."""
    return f"{tenant_id}/{session_id}"
