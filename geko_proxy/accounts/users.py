"""The users of a tenant, and the look-up of a user by e-mail over all tenants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from pypika import Parameter, PostgreSQLQuery, Table

from geko_proxy.accounts.emails import normalise_email
from geko_proxy.storage.database import Database, Scope

if TYPE_CHECKING:
    from asyncpg import Record

users: Final = Table("users")
COLUMNS: Final = (
    "tenant_id",
    "user_id",
    "email",
    "name",
    "username",
    "created_at",
    "disabled_at",
    "email_verified_at",
    "avatar",
    "language",
    "time_zone",
    "two_factor",
)
PROFILE: Final = frozenset({"name", "avatar", "language", "time_zone"})

GET: Final = str(
    PostgreSQLQuery.from_(users)
    .select(*COLUMNS, "password_hash")
    .where(users.tenant_id == Parameter("$1"))
    .where(users.user_id == Parameter("$2"))
)

SET_PASSWORD: Final = str(
    PostgreSQLQuery.update(users)
    .set(users.password_hash, Parameter("$3"))
    .where(users.tenant_id == Parameter("$1"))
    .where(users.user_id == Parameter("$2"))
)

REPLACE_HASH: Final = """
update users set password_hash = $4 where tenant_id = $1 and user_id = $2 and password_hash = $3"""

NOBODY: Final = UUID(int=0)
FIND_LOGIN: Final = "select tenant_id, user_id from find_login_email($1)"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who signs in. email: unique over all tenants, in lower case. disabled_at: None while active.

    email_verified_at: None until the mailbox was shown to be theirs. avatar: an https or data: URL. language: BCP 47;
    time_zone: IANA; None: not chosen.
    two_factor: a one-time code is asked for after the password.
    """

    tenant_id: UUID
    user_id: UUID
    email: str
    name: str
    username: str | None
    created_at: datetime
    disabled_at: datetime | None
    email_verified_at: datetime | None = None
    avatar: str | None = None
    language: str | None = None
    time_zone: str | None = None
    two_factor: bool = False

    @classmethod
    def from_row(cls, row: Record) -> User:
        """The user of a row with (at least) the columns of COLUMNS."""
        return cls(*(row[column] for column in COLUMNS))


class Credentials(NamedTuple):
    """What somebody signs in with. password_hash: None: by a provider; two_factor: a code is asked for as well."""

    password_hash: str | None
    two_factor: bool


class UserStore:
    """SQL for users. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_login(self, email: str) -> tuple[User, str | None] | None:
        """The user of an e-mail address, as typed, with the password hash (None: signs in without password).

        None when no active user has it. Callers must do a password's work then too: verify_password(…, None).
        """
        address = normalise_email(email)
        if address is None:
            return None
        async with self._database.system() as system:
            found = await system.fetch_row(FIND_LOGIN, address)
        # also for an unknown address, so that the time does not tell
        tenant_id, user_id = (found["tenant_id"], found["user_id"]) if found is not None else (NOBODY, NOBODY)
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(GET, user_id)
        if row is None or row["disabled_at"] is not None:
            return None
        return User.from_row(row), row["password_hash"]

    async def has_email(self, email: str) -> bool:
        """Whether anybody, also a disabled user, has this e-mail address."""
        async with self._database.system() as system:
            return await system.fetch_row(FIND_LOGIN, normalise_email(email)) is not None

    async def get(self, tenant_id: UUID, user_id: UUID) -> User | None:
        """A user by id, also a disabled one."""
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(GET, user_id)
        return None if row is None else User.from_row(row)

    async def credentials(self, scope: Scope, user_id: UUID) -> Credentials | None:
        """What is asked of a user now; None for one who can't sign in (any more)."""
        row = await scope.fetch_row(GET, user_id)
        if row is None or row["disabled_at"] is not None:
            return None
        return Credentials(row["password_hash"], row["two_factor"])

    async def password_hash(self, tenant_id: UUID, user_id: UUID) -> str | None:
        """The stored password hash; None for somebody who signs in without a password."""
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(GET, user_id)
        return None if row is None else row["password_hash"]

    async def update_profile(self, scope: Scope, user_id: UUID, changes: Mapping[str, str | None]) -> User:
        """Change some columns of PROFILE, checked before. Raises LookupError when there is no such user."""
        query = PostgreSQLQuery.update(users)
        for number, column in enumerate(sorted(changes), 3):
            if column not in PROFILE:
                raise ValueError(column)
            query = query.set(column, Parameter(f"${number}"))
        query = query.where(users.tenant_id == Parameter("$1")).where(users.user_id == Parameter("$2"))
        values = [changes[column] for column in sorted(changes)]
        row = await scope.fetch_row(f"{query} returning *", user_id, *values)
        if row is None:
            raise LookupError(str(user_id))
        return User.from_row(row)

    async def set_password(self, tenant_id: UUID, user_id: UUID, password_hash: str) -> None:
        """Stores a new password hash. Sessions stay: whoever changes a password ends those he means to."""
        async with self._database.tenant(tenant_id) as scope:
            await scope.execute(SET_PASSWORD, user_id, password_hash)

    async def replace_hash(self, tenant_id: UUID, user_id: UUID, old: str, new: str) -> None:
        """Stores another hash of the same password, unless the password has been changed meanwhile."""
        async with self._database.tenant(tenant_id) as scope:
            await scope.execute(REPLACE_HASH, user_id, old, new)
