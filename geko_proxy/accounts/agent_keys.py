"""LibreChat's API keys for its Agents API, which takes no session token (contract §6): one for each shadow account.

Made on first use by LibreChat's own route, kept sealed, sent upstream only: no client ever sees one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from cachetools import LRUCache

from geko_proxy.accounts.sealing import BrokenSeal, Sealer
from geko_proxy.errors import Refused, UpstreamError
from geko_proxy.librechat_client import LibreChatClient

if TYPE_CHECKING:
    from geko_proxy.accounts.shadow import Shadow, ShadowAccounts
    from geko_proxy.accounts.shadow_store import ShadowStore
    from geko_proxy.accounts.tokens import Identity
    from geko_proxy.storage.database import Scope
    from geko_proxy.workspaces.audit import Audit

log = logging.getLogger("geko.agent_keys")

NAME: Final = "GEKO"
MAX_KNOWN: Final = 20_000

GET: Final = """
select sealed_key from agent_keys where tenant_id = $1 and workspace_id = $2 and user_id = $3"""

PUT: Final = """
insert into agent_keys (tenant_id, workspace_id, user_id, librechat_key_id, sealed_key)
values ($1, $2, $3, $4, $5)
on conflict (tenant_id, workspace_id, user_id)
do update set librechat_key_id = excluded.librechat_key_id, sealed_key = excluded.sealed_key, created_at = now()"""


class AgentKeys:
    """Finds or makes the key of a person in a workspace."""

    def __init__(
        self,
        store: ShadowStore,
        shadows: ShadowAccounts,
        client: LibreChatClient,
        sealer: Sealer,
        audit: Audit,
    ) -> None:
        self._store = store
        self._shadows = shadows
        self._client = client
        self._sealer = sealer
        self._audit = audit
        self._known: LRUCache[tuple[UUID, UUID], str] = LRUCache(MAX_KNOWN)

    async def get(self, identity: Identity, *, refused: str | None = None) -> str:
        """The key; made on first use, once, however many requests race.

        refused: a key that LibreChat has just not taken; another one is found or made. Raises UpstreamError, and
        Refused when LibreChat's Agents API is switched off.
        """
        place = (identity.workspace_id, identity.user_id)
        known = self._known.get(place)
        if known is not None and known != refused:
            return known
        shadow = await self._shadows.get(identity.tenant_id, *place)
        async with self._store.creation_lock(identity.tenant_id, *place) as scope:
            row = await scope.fetch_row(GET, *place)
            key = self._open(row["sealed_key"], shadow) if row is not None else None
            if key is None or key == refused:
                key = await self._make(scope, identity, shadow)
        self._known[place] = key
        return key

    async def _make(self, scope: Scope, identity: Identity, shadow: Shadow) -> str:
        bearer = await self._shadows.bearer(shadow)
        answer = await self._client.call("POST", "/api/api-keys", bearer=bearer, body={"name": NAME})
        if answer.status == 403:  # requires REMOTE_AGENTS.USE of the role (LibreChat's routes/apiKeys.js)
            raise Refused(
                403,
                "agents_api_off",
                "The Agents API is switched off: LibreChat needs interface.remoteAgents.use.",
            )
        key, key_id = key_in(answer.value) if answer.status == 201 else ("", "")
        if not key:
            raise UpstreamError(f"LibreChat made no key for its Agents API ({answer.status})")
        place = (identity.workspace_id, identity.user_id)
        await scope.execute(PUT, *place, key_id, self._sealer.seal(key, seal_place(shadow)))
        await self._audit.record(
            scope,
            actor_user_id=identity.user_id,
            action="agents_api.key.create",
            target=f"workspace:{identity.workspace_id}",
            ip=None,
            request_id=None,
            details={"librechatKeyId": key_id},
        )
        log.info("made a key for the Agents API in workspace %s", identity.workspace_id)
        return key

    def _open(self, sealed: str, shadow: Shadow) -> str | None:
        try:
            return self._sealer.open(sealed, seal_place(shadow))
        except BrokenSeal as error:  # sealed with a secret that is gone: a new key does as well
            log.warning("%s", error)
            return None


def key_in(value: Any) -> tuple[str, str]:
    """The key and its id in LibreChat's reply; empty texts for what is none that a header can carry."""
    key, key_id = (value.get("key"), value.get("id")) if isinstance(value, dict) else (None, None)
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or " " in key:
        return "", ""
    if not isinstance(key_id, str) or not 0 < len(key_id) <= 100:
        return "", ""
    return key, key_id


def seal_place(shadow: Shadow) -> str:
    """Where a key belongs: it opens for no other account."""
    return f"agent_keys/{shadow.librechat_user_id}"
