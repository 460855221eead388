"""The workspace: is the caller still a member, may the role do this, and may the workspace use what is asked for.

What LibreChat tells about models, agents and servers is cut down to the same. The rules are in `guard`, `enforcement`
(requests) and `replies`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from cachetools import TTLCache

from geko_proxy.accounts.api_keys import KeyScope
from geko_proxy.errors import StoreError, UpstreamError
from geko_proxy.filters.base import EndStream, EventHook, Exchange, Filter, Refused, Reply, Route, SseEvent
from geko_proxy.llm.call import LlmCall, model_call_of
from geko_proxy.llm.hidden import hidden_names
from geko_proxy.llm.wire.base import Usage
from geko_proxy.policy import replies
from geko_proxy.policy.discovery import UnexpectedShape
from geko_proxy.policy.enforcement import CHECKS, check_model_call
from geko_proxy.policy.guard import Guard
from geko_proxy.policy.librechat_view import Caller, LibreChatView
from geko_proxy.storage.recent import Recent
from geko_proxy.workspaces.access import needed_in_librechat
from geko_proxy.workspaces.config import WorkspaceConfig
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.roles import SYSTEM_USER, Permission, Role, allowed
from geko_proxy.workspaces.workspaces import Workspace

if TYPE_CHECKING:
    from uuid import UUID

    from geko_proxy.accounts.api_keys import ApiKeys
    from geko_proxy.accounts.tokens import Identity
    from geko_proxy.services import Services

CODE: Final = "access_ended"
LOOK_S: Final = 2.0  # longest that an answer waits for a look at its person's role
DEAF_S: Final = 1.0  # how often a running answer's role is read while changes can't be heard
WORKSPACE_TTL_S: Final = 60.0  # its name; whether it is archived is seen at once, by the role
ANONYMOUS: Final = frozenset({"config", "banner"})  # LibreChat's sign-in page asks for them
ACCOUNT_OPERATIONS: Final = (
    "auth."  # GEKO's own; who was removed from a workspace must be able to leave for another
)


class Facts(NamedTuple):
    """What is known of a person in a workspace."""

    workspace: Workspace
    role: Role
    config: WorkspaceConfig
    may_chat: bool


class Watch:
    """Looks at the role of the person whose answer runs, whenever a membership has changed anywhere; for an answer that
    runs with an API key, also at the key.

    keys: needed with a key, None without one.
    """

    def __init__(
        self,
        members: MemberStore,
        identity: Identity,
        keys: ApiKeys | None = None,
        key_id: UUID | None = None,
    ) -> None:
        self._members = members
        self._api_keys = keys if key_id is not None else None
        self._key_id = key_id
        self._key = (identity.tenant_id, identity.workspace_id, identity.user_id)
        self._seen: int | None = -1
        self._away = False  # the last look met no database
        self._looked_at = 0.0

    def look(self, event: SseEvent) -> Awaitable[Sequence[SseEvent] | None] | None:
        """The event hook; waits only when there may be news."""
        generation = self._members.generation
        if self._api_keys is not None:
            of_keys = self._api_keys.generation
            generation = (
                None if generation is None or of_keys is None else generation + of_keys
            )  # both only grow
        if generation is None or self._away:  # changes can't be heard: ask, but not for every event
            if monotonic() - self._looked_at < DEAF_S:
                return None
        elif generation == self._seen:
            return None
        return self._check(generation)

    async def _check(self, generation: int | None) -> None:
        self._seen, self._looked_at = generation, monotonic()
        try:
            async with asyncio.timeout(LOOK_S):
                role = await self._members.role(*self._key)
                key_is_good = await self._is_key_good()
        except (StoreError, TimeoutError):
            # Who chats was a member a moment ago, and nobody is removed while the database is away.
            self._away = True
            return
        self._away = False
        if role is None:
            raise EndStream(notice="You are no longer a member of this workspace.", code=CODE)
        if not allowed(role, Permission.CHAT):
            text = "Your role in this workspace does not allow to chat any more."
            raise EndStream(notice=text, code=CODE)
        if not key_is_good:
            raise EndStream(notice="The API key of this answer was revoked.", code=CODE)

    async def _is_key_good(self) -> bool:
        if self._api_keys is None or self._key_id is None:
            return True
        return KeyScope.CHAT in await self._api_keys.scopes(self._key_id)


class WorkspaceFilter(Filter):
    """Refuses what the role or the workspace's configuration does not allow; sets workspace, role, config, model."""

    name: ClassVar[str] = "workspace"
    routes: ClassVar[frozenset[Route]] = frozenset(
        {
            Route.CHAT,
            Route.STREAM,
            Route.CONTROL,
            Route.DISCOVERY,
            Route.API,
            Route.AGENTS_API,
            Route.MEDIA,
            Route.OWN,
            Route.LLM,
        }
    )

    def __init__(self, options: object, services: Services) -> None:
        super().__init__(options, services)
        self._members = services.members
        self._configs = services.configs
        self._hidden = hidden_names(each.name for each in services.settings.llm_providers)
        self._view = LibreChatView(services.client)
        self._workspaces: TTLCache[tuple[UUID, UUID], Workspace] = TTLCache(10_000, WORKSPACE_TTL_S)
        self._recent: Recent[Facts] = Recent(services.members, services.configs)

    async def on_request(self, exchange: Exchange) -> Reply | None:
        identity = exchange.user
        if identity is None and exchange.operation in ANONYMOUS:
            return None
        await self._enter(exchange, exchange.signed_in())
        if exchange.route is Route.LLM:
            check_model_call(exchange)
            return None
        check = CHECKS.get(exchange.operation)
        if check is not None:
            await check(exchange, await self._guard(exchange), self.services)
        return None

    def on_stream(self, exchange: Exchange) -> EventHook | None:
        """Ends the answer of somebody who may not chat here any more: no event passes once the change is known."""
        identity = exchange.user
        if identity is None or exchange.route not in (Route.CHAT, Route.AGENTS_API, Route.LLM):
            return None
        call = model_call_of(exchange)
        if call is not None:
            return None if identity.user_id == SYSTEM_USER else self._watch_call(identity, call)
        key_id = None if exchange.api_key is None else exchange.api_key.key_id
        return Watch(self._members, identity, self.services.api_keys, key_id).look

    def _watch_call(self, identity: Identity, call: LlmCall) -> EventHook:
        """As above for a call of a model, which ends as its API wants it."""
        parent = call.origin.parent
        key_id = None if parent is None else parent.key_id
        watch = Watch(self._members, identity, self.services.api_keys, key_id)

        async def wait(waiting: Awaitable[Sequence[SseEvent] | None]) -> Sequence[SseEvent] | None:
            try:
                return await waiting
            except EndStream as end:
                counted = call.shape.usage or Usage(0, 0)
                last = call.shape.closing(end.notice or "", end.code, counted)
                raise EndStream(tuple(last), end.notice, end.code) from None

        def look(event: SseEvent) -> Awaitable[Sequence[SseEvent] | None] | None:
            waiting = None if call.shape.over else watch.look(event)
            return None if waiting is None else wait(waiting)

        return look

    async def on_reply(self, exchange: Exchange) -> Reply | None:
        reply = exchange.reply
        is_discovery = exchange.route is Route.DISCOVERY
        if reply is None or not (is_discovery or exchange.operation == "agents_api"):
            return None
        if not 200 <= reply.status < 300 or reply.status == 204:
            return None
        if exchange.request.method == "HEAD":
            reply.set_body(b"")  # its length would be that of the whole list
            return None
        if exchange.operation == "config":
            guard = await self._guard(exchange) if exchange.user is not None else None
            await self._rewrite(exchange, reply, guard, replies.config)
            return None
        guard = await self._guard(exchange)
        rewrite = replies.find_rewrite(exchange, guard)
        if rewrite is not None:
            await self._rewrite(exchange, reply, guard, rewrite)
        elif is_discovery:
            reply.headers.popall("ETag", None)
            reply.headers["Cache-Control"] = "no-store"  # it may be another one in the next workspace
        return None

    async def _enter(self, exchange: Exchange, identity: Identity) -> None:
        key = (identity.user_id, identity.workspace_id)
        facts = self._recent.get(key)
        if facts is None:
            stamp = self._recent.stamp()
            facts = await self._find(exchange, identity)
            if facts is None:
                return
            self._recent.put(key, facts, stamp)
        exchange.workspace, exchange.role, exchange.config = facts.workspace, facts.role, facts.config
        if exchange.api_key is not None and exchange.api_key.models is not None:
            exchange.config = replace(facts.config, key_models=exchange.api_key.models)
        if not facts.may_chat and exchange.route is not Route.OWN and _changes(exchange):
            raise Refused(403, "read_only", "You may read here, but not write: your role is viewer.")

    async def _find(self, exchange: Exchange, identity: Identity) -> Facts | None:
        """Workspace, role and configuration; None for somebody removed who is about to leave for another one."""
        tenant_id, workspace_id = identity.tenant_id, identity.workspace_id
        role = await self._members.role(tenant_id, workspace_id, identity.user_id)
        if role is None and exchange.route is Route.LLM and identity.user_id == SYSTEM_USER:
            role = Role.MEMBER
        if role is None:
            if exchange.route is Route.OWN and exchange.operation.startswith(ACCOUNT_OPERATIONS):
                return None
            raise await self._left(identity)
        workspace = await self._load(identity)
        config = await self._configs.get(tenant_id, workspace_id)
        if self._hidden:
            config = replace(config, hidden_endpoints=self._hidden)
        return Facts(workspace, role, config, allowed(role, Permission.CHAT))

    async def _load(self, identity: Identity) -> Workspace:
        known = self._workspaces.get((identity.tenant_id, identity.workspace_id))
        if known is not None:
            return known
        workspace = await self.services.workspaces.get(identity.tenant_id, identity.workspace_id)
        if workspace is None or workspace.archived_at is not None:
            raise await self._left(identity)
        self._workspaces[(identity.tenant_id, identity.workspace_id)] = workspace
        return workspace

    async def _left(self, identity: Identity) -> Refused:
        """Why the caller has no role here. The session stays: there may be another workspace to go to."""
        workspace = await self.services.workspaces.get(identity.tenant_id, identity.workspace_id)
        if workspace is not None and workspace.archived_at is not None:
            return Refused(403, "workspace_archived", f"The workspace {workspace.name} is archived.")
        return Refused(403, "not_a_member", "You are no longer a member of this workspace.")

    async def _guard(self, exchange: Exchange) -> Guard:
        """The checks for this exchange; the same ones for request and reply."""
        known = exchange.state.get(Guard)
        if isinstance(known, Guard):
            return known
        assert exchange.config is not None
        identity = exchange.signed_in()
        shadows = self.services.shadows
        shadow = await shadows.get(identity.tenant_id, identity.workspace_id, identity.user_id)
        caller = Caller(shadow.librechat_user_id, await shadows.bearer(shadow))
        guard = exchange.state[Guard] = Guard(exchange.config, self._view, caller)
        return guard

    async def _rewrite(self, exchange: Exchange, reply: Reply, guard: Guard | None, rewrite: Any) -> None:
        try:
            reply.set_json(await rewrite(await reply.json(), exchange, guard, self.services))
        except UnexpectedShape as error:
            raise UpstreamError(
                f"LibreChat's reply to {exchange.operation} was not understood: {error}"
            ) from None


def _changes(exchange: Exchange) -> bool:
    return needed_in_librechat(exchange.request.method, exchange.operation) is Permission.CHAT
