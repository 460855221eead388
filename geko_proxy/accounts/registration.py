"""Creates accounts: a new tenant with its owner and first workspace, or one more user of a workspace."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

import asyncpg

from geko_proxy.accounts.emails import normalise_email
from geko_proxy.accounts.password_policy import MIN_LENGTH, password_problems
from geko_proxy.accounts.passwords import hash_password
from geko_proxy.accounts.users import User
from geko_proxy.errors import GekoError
from geko_proxy.storage.database import Database, Scope
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.workspaces import members
from geko_proxy.workspaces.roles import Role
from geko_proxy.workspaces.tenants import Tenant
from geko_proxy.workspaces.workspaces import Workspace, insert_workspace

if TYPE_CHECKING:
    from asyncpg import Record

FIRST_WORKSPACE: Final = "Default"

# The lengths that LibreChat's own form and register route ask for (contract §2.1, §2.2).
USERNAME_LENGTH: Final = (2, 80)
# LibreChat wants 3 characters; shorter names exist, and a shadow account needs no real one.
NAME_LENGTH: Final = (1, 80)
TENANT_NAME_LENGTH: Final = (1, 120)
MAX_TOKEN_LIMIT: Final = 10**18

UNPRINTABLE: Final = ("Cc", "Cs", "Zl", "Zp")
TURNING: Final = frozenset(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # Unicode UAX #9, 2.1 to 2.5

INSERT_TENANT: Final = "insert into tenants (tenant_id, name) values ($1, $2) returning *"
INSERT_USER: Final = """
insert into users (tenant_id, user_id, email, name, username, password_hash)
values ($1, $2, $3, $4, $5, $6) returning *"""
CLAIM_EMAIL: Final = "select claim_login_email($2, $3) where $1::uuid is not null"


class EmailTaken(GekoError):
    """Somebody, in whatever tenant, signs in with this e-mail address already."""


class InvalidRegistration(ValueError):
    """Input that can't become an account. problems: field → what is wrong with it, for people."""

    def __init__(self, problems: Mapping[str, list[str]]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(f"{field}: {', '.join(texts)}" for field, texts in problems.items()))


@dataclass(frozen=True, slots=True)
class Registered:
    """What `register` created."""

    user: User
    tenant: Tenant
    workspace: Workspace


@dataclass(frozen=True, slots=True)
class NewUser:
    """Checked input: the e-mail normalised, blanks around names removed. password_hash: None: none."""

    email: str
    name: str
    username: str | None
    password_hash: str | None  # None: signs in by a provider


class Registration:
    """Creates accounts. invalidation: where new members are announced; None with only one process.

    min_password: shortest password that is taken.
    """

    def __init__(
        self,
        database: Database,
        invalidation: Invalidation | None = None,
        *,
        min_password: int = MIN_LENGTH,
    ) -> None:
        self._min_password = min_password
        self._database = database
        self._invalidation = invalidation

    async def register(
        self,
        *,
        email: str,
        password: str,
        name: str,
        username: str | None = None,
        tenant_name: str | None = None,
        token_limit: int | None,
    ) -> Registered:
        """Creates a tenant, its owner, a first workspace and that one's quota: all or nothing.

        tenant_name: the user's name when None. token_limit: tokens a month, None for no limit.
        Raises InvalidRegistration, EmailTaken, StoreError.
        """
        check_fields(
            email, password, name, username, tenant_name, token_limit, min_password=self._min_password
        )
        tenant_name = given(tenant_name) or name.strip()
        new = await prepare(email, password, name, username)
        try:
            async with self._database.tenant(uuid4()) as scope:
                tenant = Tenant.from_row(await inserted(scope, INSERT_TENANT, tenant_name))
                user = await insert_user(scope, new)
                workspace = await insert_workspace(scope, FIRST_WORKSPACE, user.user_id, token_limit)
        except asyncpg.UniqueViolationError as error:
            raise EmailTaken(new.email) from error
        return Registered(user, tenant, workspace)

    async def add_member(
        self, tenant_id: UUID, workspace_id: UUID, email: str, password: str, name: str, role: Role
    ) -> User:
        """Creates a user of an existing tenant as a member of one of its workspaces.

        Raises InvalidRegistration, EmailTaken, StoreError; LookupError when there is no such workspace.
        """
        check_fields(email, password, name, min_password=self._min_password)
        new = await prepare(email, password, name, None)
        try:
            async with self._database.tenant(tenant_id) as scope:
                user = await insert_user(scope, new)
                await scope.execute(members.INSERT, workspace_id, user.user_id, role.value)
                if self._invalidation is not None:
                    key = members.cache_key(tenant_id, workspace_id, user.user_id)
                    await self._invalidation.publish(scope, members.TOPIC, key)
        except asyncpg.UniqueViolationError as error:
            raise EmailTaken(new.email) from error
        except asyncpg.ForeignKeyViolationError as error:
            raise LookupError(f"no workspace {workspace_id} in tenant {tenant_id}") from error
        return user


async def prepare(email: str, password: str, name: str, username: str | None) -> NewUser:
    """Normalises checked input and hashes the password: slow, so before any transaction."""
    hashed = await hash_password(password, rank=1)  # who has an account goes first
    return NewUser(normalise_email(email) or "", name.strip(), given(username), hashed)


async def insert_user(scope: Scope, new: NewUser) -> User:
    """Inserts the user and claims the e-mail. Raises asyncpg.UniqueViolationError when that is taken."""
    user_id = uuid4()
    row = await inserted(scope, INSERT_USER, user_id, new.email, new.name, new.username, new.password_hash)
    await scope.execute(CLAIM_EMAIL, new.email, user_id)
    return User.from_row(row)


async def inserted(scope: Scope, sql: str, *args: object) -> Record:
    """The row of an `insert … returning`."""
    row = await scope.fetch_row(sql, *args)
    assert row is not None
    return row


def check_fields(
    email: str,
    password: str,
    name: str,
    username: str | None = None,
    tenant_name: str | None = None,
    token_limit: int | None = None,
    *,
    min_password: int = MIN_LENGTH,
) -> None:
    """Raises InvalidRegistration with every problem of every field."""
    problems: defaultdict[str, list[str]] = defaultdict(list)
    if normalise_email(email) is None:
        problems["email"].append("Not a valid e-mail address.")
    problems["password"] += password_problems(password, min_length=min_password, own=(name, email, username))
    problems["name"] += text_problems(name, NAME_LENGTH)
    if given(username):
        problems["username"] += text_problems(username or "", USERNAME_LENGTH)
    if given(tenant_name):
        problems["tenantName"] += text_problems(tenant_name or "", TENANT_NAME_LENGTH)
    if token_limit is not None and not 0 <= token_limit <= MAX_TOKEN_LIMIT:
        problems["tokenLimit"].append(f"Must be between 0 and {MAX_TOKEN_LIMIT}.")
    if found := {field: texts for field, texts in problems.items() if texts}:
        raise InvalidRegistration(found)


def given(text: str | None) -> str | None:
    """An optional text without surrounding blanks; None when nothing is left of it."""
    return (text or "").strip() or None


def text_problems(text: str, limits: tuple[int, int]) -> list[str]:
    """What is wrong with a name: its length, or characters that do not print or turn the text around them.

    Names stand in the subject of mails, where a line separator is a line break, and beside other people's names.
    """
    problems = length_problems(text.strip(), limits)
    if any(unicodedata.category(character) in UNPRINTABLE or character in TURNING for character in text):
        problems.append("Must not contain control characters.")
    return problems


def length_problems(text: str, limits: tuple[int, int]) -> list[str]:
    """What is wrong with the length of a text, in characters."""
    shortest, longest = limits
    if len(text) < shortest:
        return [f"Must contain at least {shortest} character(s)."]
    if len(text) > longest:
        return [f"Must contain at most {longest} characters."]
    return []
