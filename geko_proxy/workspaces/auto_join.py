"""Mail domains whose people join a tenant's workspace by themselves, once their address is verified."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from geko_proxy.accounts.emails import normalise_email
from geko_proxy.errors import GekoError
from geko_proxy.storage.database import Database, Scope
from geko_proxy.workspaces.roles import Role

# Anybody gets an address there, so such a domain says nothing about who somebody works for.
PUBLIC_DOMAINS: Final = frozenset(
    """
    126.com 163.com aol.com att.net bk.ru bluewin.ch btinternet.com comcast.net cox.net daum.net duck.com email.com
    fastmail.com fastmail.fm free.fr freenet.de gmail.com gmx.at gmx.ch gmx.com gmx.de gmx.net googlemail.com
    hanmail.net hey.com hotmail.co.uk hotmail.com hotmail.de hotmail.fr hushmail.com icloud.com inbox.ru laposte.net
    libero.it list.ru live.com live.de live.nl mac.com mail.com mail.de mail.ru mailbox.org me.com msn.com naver.com
    o2.pl online.de orange.fr outlook.com outlook.de outlook.fr pm.me posteo.de proton.me protonmail.ch
    protonmail.com qq.com rambler.ru rediffmail.com rocketmail.com sbcglobal.net seznam.cz sfr.fr sina.com sky.com
    t-online.de talktalk.net tiscali.it tuta.com tuta.io tutanota.com tutanota.de uol.com.br verizon.net virgilio.it
    virginmedia.com wanadoo.fr web.de wp.pl yahoo.ca yahoo.co.in yahoo.co.jp yahoo.co.uk yahoo.com yahoo.com.br
    yahoo.de yahoo.es yahoo.fr yahoo.it yandex.com yandex.ru ymail.com zoho.com
    """.split()
)

READ: Final = """
select a.workspace_id, a.role from tenant_auto_join a
join workspaces w on w.tenant_id = a.tenant_id and w.workspace_id = a.workspace_id
where a.tenant_id = $1 and w.archived_at is null"""
DOMAINS: Final = "select domain from own_join_domains() where $1::uuid is not null"
PUT: Final = """
insert into tenant_auto_join (tenant_id, workspace_id, role, set_by) values ($1, $2, $3, $4)
on conflict (tenant_id) do update set workspace_id = excluded.workspace_id, role = excluded.role,
    set_by = excluded.set_by, updated_at = now()"""
DELETE: Final = "delete from tenant_auto_join where tenant_id = $1"
SET_DOMAINS: Final = "select set_join_domains($2) where $1::uuid is not null"
FIND: Final = "select find_join_domain($1)"
VERIFIED: Final = """
select email from users where tenant_id = $1 and user_id = $2 and email_verified_at is not null"""


class DomainTaken(GekoError):
    """Another tenant has one of the domains."""


@dataclass(frozen=True, slots=True)
class AutoJoin:
    """Whoever has a verified address of one of the domains joins this workspace in this role."""

    domains: tuple[str, ...]
    workspace_id: UUID
    role: Role


class AutoJoinStore:
    """SQL for the setting. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: UUID) -> AutoJoin | None:
        """A tenant's setting; None: off."""
        async with self._database.tenant(tenant_id) as scope:
            return await read(scope)

    async def put(self, scope: Scope, setting: AutoJoin | None, set_by: UUID) -> None:
        """Replaces the setting; None switches it off. Raises DomainTaken."""
        domains = list(setting.domains) if setting is not None else []
        try:
            await scope.execute(SET_DOMAINS, domains)
        except asyncpg.UniqueViolationError as error:
            raise DomainTaken from error
        if setting is None:
            await scope.execute(DELETE)
        else:
            await scope.execute(PUT, setting.workspace_id, setting.role.value, set_by)

    async def find_tenant(self, email: str) -> UUID | None:
        """The tenant that people of this address's domain join."""
        async with self._database.system() as system:
            found: UUID | None = await system.fetch_value(FIND, domain_of(email))
        return found

    async def verified_domain(self, tenant_id: UUID, user_id: UUID) -> str | None:
        """The domain of a user's address; None as long as that is not verified."""
        async with self._database.tenant(tenant_id) as scope:
            email = await scope.fetch_value(VERIFIED, user_id)
        return None if email is None else domain_of(email)


async def read(scope: Scope) -> AutoJoin | None:
    """The setting of the scope's tenant; None: off."""
    row = await scope.fetch_row(READ)
    if row is None:
        return None
    domains = tuple(each["domain"] for each in await scope.fetch(DOMAINS))
    return AutoJoin(domains, row["workspace_id"], Role(row["role"])) if domains else None


def domain_of(email: str) -> str:
    """The part behind the @."""
    return email.rpartition("@")[2].strip().lower()


def domain_problems(domains: Sequence[str], proven: Collection[str]) -> dict[str, str]:
    """What is wrong with domains in lower case, by their place. proven: those of owners' verified addresses."""
    problems = {}
    for index, domain in enumerate(domains):
        if normalise_email(f"x@{domain}") != f"x@{domain}":
            problems[f"domains[{index}]"] = "Not a mail domain."
        elif domain in PUBLIC_DOMAINS:
            problems[f"domains[{index}]"] = "Anybody can get an address of this domain."
        elif domain not in proven:
            problems[f"domains[{index}]"] = "Your own verified e-mail address must be of this domain."
    return problems
