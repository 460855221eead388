"""Whose call it is: LibreChat's account, conversation and message, in GEKO's terms.

LibreChat fills its own placeholders into the headers (contract §4.9); what it leaves as `{{…}}` it does not know. All
of this is believed because the caller has the internal key, which only LibreChat has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from cachetools import TTLCache

from geko_proxy.accounts.tokens import Identity
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Request
from geko_proxy.llm.wire.kinds import kind_of
from geko_proxy.metering.call_leases import CallLeases, CallOrigin
from geko_proxy.workspaces.roles import SYSTEM_USER, Role

if TYPE_CHECKING:
    from geko_proxy.storage.database import Database

USER: Final = "x-geko-user"
CONVERSATION: Final = "x-geko-conversation"
MESSAGE: Final = "x-geko-message"
KIND: Final = "x-geko-kind"

# across tenants, by functions of sql/0020
FIND_SHADOW_ACCOUNT: Final = "select * from find_shadow_account($1)"
FIND_WORKSPACE_TENANT: Final = "select * from find_workspace_tenant($1)"

NOBODY: Final = "-"  # no account is called so
_ACCOUNT: Final = re.compile(r"[0-9a-f]{24}")
_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)
KNOWN_ACCOUNTS: Final = 20_000
KNOWN_FOR_S: Final = 300.0


class Attribution:
    """Finds out whose calls they are. unknown_accounts: "refuse", or the id of the workspace that pays for them."""

    def __init__(self, database: Database, calls: CallLeases, unknown_accounts: str) -> None:
        self._database = database
        self._calls = calls
        self._payer = None if unknown_accounts == "refuse" else UUID(unknown_accounts)
        self._accounts: TTLCache[str, Identity] = TTLCache(KNOWN_ACCOUNTS, KNOWN_FOR_S)

    async def identify(self, request: Request) -> Identity:
        """The person behind the call, in the workspace of the account. Raises Refused 403, StoreError.

        The body's `user` is not believed: an agent's author can write into bodies (`modelKwargs`), not into headers.
        """
        account = said(request, USER) or ""
        is_account = _ACCOUNT.fullmatch(account) is not None
        known = self._accounts.get(account) if is_account else None
        if known is not None:
            return known
        found = await self._find(account) if is_account else None
        if found is None:
            found = await self._unknown()
        else:
            self._accounts[account] = found
        return found

    async def origin(self, exchange: Exchange, body: dict[str, Any]) -> CallOrigin:
        """What the call is for, and the message that it belongs to. Raises StoreError."""
        request, caller = exchange.request, exchange.signed_in()
        kind = kind_of(exchange.operation, said(request, KIND), body)
        conversation_id, message_id, parent = said(request, CONVERSATION), said(request, MESSAGE), None
        if caller.user_id != SYSTEM_USER:
            parent = await self._calls.find_parent(
                caller.tenant_id,
                caller.workspace_id,
                caller.user_id,
                conversation_id,
                message_id,
            )
        return CallOrigin(kind, conversation_id, message_id, parent)

    async def _find(self, account: str) -> Identity | None:
        row = await self._database.call(FIND_SHADOW_ACCOUNT, account)
        return None if row is None else identity(row["tenant_id"], row["workspace_id"], row["user_id"])

    async def _unknown(self) -> Identity:
        if self._payer is not None:
            known = self._accounts.get(NOBODY)
            if known is not None:
                return known
            row = await self._database.call(FIND_WORKSPACE_TENANT, self._payer)
            if row is not None:
                found = self._accounts[NOBODY] = identity(row["tenant_id"], self._payer, SYSTEM_USER)
                return found
        text = f"The call names no account that GEKO knows ({USER})."
        raise Refused(403, "unknown_account", text)


def said(request: Request, name: str) -> str | None:
    """What LibreChat says in a header; None for nothing, for a placeholder it did not fill, and for nonsense."""
    value = request.headers.get(name)
    return value if value is not None and _ID.fullmatch(value) else None


def identity(tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> Identity:
    """Somebody who acts through LibreChat, without a session of GEKO's; the role is looked up by the filters."""
    return Identity(user_id, tenant_id, workspace_id, Role.MEMBER, user_id)
