"""Who somebody is here whom a provider vouches for: signed in, registered, linked, or turned away."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from geko_proxy.accounts.joining import Origin
from geko_proxy.accounts.oauth_accounts import AlreadyLinked, ProviderAccount
from geko_proxy.accounts.registration import EmailTaken, Registered
from geko_proxy.accounts.users import User
from geko_proxy.client_api.password_changes import notify
from geko_proxy.client_api.sign_in import CodeWanted, SignedIn, SignIns
from geko_proxy.exchange import Exchange
from geko_proxy.mail import link_base
from geko_proxy.oauth.errors import OAuthFailed
from geko_proxy.oauth.flows import Linker
from geko_proxy.oauth.providers import Person, Provider
from geko_proxy.storage.database import Scope

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.oauth")

SUBJECT: Final = "Your sign-in was changed"
TEXT: Final = """Hello {name},

{what}. It is about the account of {email}.

If it was not you, unlink it, and set a new password at once: {link}
"""


class OAuthPeople:
    """Decides. Every method raises OAuthFailed for people it turns away, and Refused as SignIns does."""

    def __init__(self, services: Services, sign_ins: SignIns) -> None:
        self._services = services
        self._accounts = services.oauth_accounts
        self._sign_ins = sign_ins

    async def sign_in(
        self, exchange: Exchange, provider: Provider, person: Person, *, bound_to: str
    ) -> SignedIn | CodeWanted:
        """Sign in whom the provider's subject is linked to, or register somebody new.

        A code is wanted of somebody with a second factor, unless the provider says that it has asked for one.
        bound_to: what must be shown again with the code's ticket.

        An account that has the same e-mail address is never linked on the provider's word: its owner signs in and
        links it. Who controls an address at a provider may not be who registered with it here.
        """
        account = account_of(provider, person)
        found = await self._accounts.find(person.issuer, person.subject)
        if found is None:
            joined = await self._join(exchange, person, account)
            if joined is not None:
                return await self._sign_ins.by_user(exchange, joined, how=account.provider)
            registered = await self._register(exchange, provider, person, account)
            if registered is not None:
                return await self._sign_ins.enter(exchange, registered, how=account.provider)
            found = await self._accounts.find(person.issuer, person.subject)
            if found is None:
                raise OAuthFailed("email_in_use", "an account has this address and is not linked")
        user = await self._known(*found, account)
        if user.two_factor and not person.mfa:
            return await self._sign_ins.ask_for_code(exchange, user, bound_to=bound_to)
        return await self._sign_ins.by_user(exchange, user, how=account.provider)

    async def link(self, exchange: Exchange, provider: Provider, person: Person, linker: Linker) -> None:
        """Link the provider's account to the one whose session began the flow and is still there."""
        tenant_id, user_id = linker.tenant_id, linker.user_id
        if not await self._services.sessions.is_active(tenant_id, linker.session_id):
            raise OAuthFailed("session_over", "the session that began to link is over")
        await self._usable(tenant_id, user_id)
        account = account_of(provider, person)
        owner = await self._accounts.find(person.issuer, person.subject)
        if owner == (tenant_id, user_id):
            await self._accounts.touch(tenant_id, user_id, account)
            return
        try:
            async with self._services.database.tenant(tenant_id) as scope:
                await self._accounts.link(scope, user_id, account)
                await self.record(scope, exchange, user_id, "oauth.link", account.provider, shown(account))
        except AlreadyLinked as error:
            raise OAuthFailed("already_linked", str(error)) from None
        what = f"now signs you in as {account.email}"
        await self.tell(tenant_id, user_id, provider.settings.display_name, what)

    async def tell(self, tenant_id: UUID, user_id: UUID, provider: str, what: str) -> None:
        """Tell the account's owner by mail that there is another way in, or one less."""
        user = await self._services.users.get(tenant_id, user_id)
        if user is not None:
            link = f"{link_base(self._services.settings)}/forgot-password"
            values = {"name": user.name, "email": user.email, "what": f"{provider} {what}", "link": link}
            await notify(self._services, user.email, SUBJECT, TEXT, values)

    async def record(
        self,
        scope: Scope,
        exchange: Exchange,
        user_id: UUID,
        action: str,
        provider: str,
        details: Mapping[str, Any],
    ) -> None:
        """Write what was done into the audit log."""
        await self._services.audit.record(
            scope,
            actor_user_id=user_id,
            action=action,
            target=provider,
            ip=exchange.request.client_ip or None,
            request_id=exchange.id,
            details=details,
        )

    async def _known(self, tenant_id: UUID, user_id: UUID, account: ProviderAccount) -> User:
        user = await self._usable(tenant_id, user_id)
        if not await self._accounts.touch(tenant_id, user_id, account):
            raise OAuthFailed("expired", "unlinked at this moment")
        return user

    async def _usable(self, tenant_id: UUID, user_id: UUID) -> User:
        user = await self._services.users.get(tenant_id, user_id)
        if user is None or user.disabled_at is not None:
            raise OAuthFailed("account_disabled", f"user {user_id}")
        return user

    async def _join(self, exchange: Exchange, person: Person, account: ProviderAccount) -> User | None:
        """An account in the tenant that lets its mail domain's people in; None where no tenant does."""
        if await self._services.users.has_email(person.email):
            return None
        origin = Origin(exchange.request.client_ip or None, exchange.id)
        try:
            user = await self._services.joining.register_verified(
                email=person.email, name=person.name, username=None, password_hash=None, origin=origin
            )
        except EmailTaken:
            return None
        if user is None:
            return None
        async with self._services.database.tenant(user.tenant_id) as scope:
            await self._accounts.link(scope, user.user_id, account)
            await self.record(
                scope, exchange, user.user_id, "oauth.register", account.provider, shown(account)
            )
        return user

    async def _register(
        self, exchange: Exchange, provider: Provider, person: Person, account: ProviderAccount
    ) -> Registered | None:
        """Somebody new; None when the address or the subject is somebody's."""
        if await self._services.users.has_email(person.email):
            return None
        if not provider.settings.allow_registration:
            raise OAuthFailed("no_account", "allow_registration is off")
        await self._sign_ins.begin_registration(exchange)
        limit = self._services.settings.auth.default_token_limit or None
        try:
            registered = await self._accounts.register(account, person.name, limit)
        except EmailTaken:
            return None
        user = registered.user
        log.info("%s: user %s registered with %s", exchange.id, user.user_id, account.provider)
        async with self._services.database.tenant(user.tenant_id) as scope:
            await self.record(
                scope, exchange, user.user_id, "oauth.register", account.provider, shown(account)
            )
        return registered


def account_of(provider: Provider, person: Person) -> ProviderAccount:
    """What is kept of a person's account at a provider."""
    tokens = person.tokens
    kept = {
        "accessToken": tokens.access_token,
        "refreshToken": tokens.refresh_token,
        "expiresAt": int(time.time()) + tokens.expires_in_s if tokens.expires_in_s is not None else None,
        "scope": tokens.scope,
    }
    return ProviderAccount(provider.settings.name, person.issuer, person.subject, person.email, kept)


def shown(account: ProviderAccount) -> dict[str, str]:
    """What the audit log says about an account."""
    return {"issuer": account.issuer, "subject": account.subject, "email": account.email}
