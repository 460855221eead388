"""GET /v1/usage/stream: the workspace's limits and what runs in it, live, as server-sent events."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from geko_proxy.admin_api.limit_shapes import limit_state_shape
from geko_proxy.browser_safety import secure
from geko_proxy.errors import StoreError
from geko_proxy.exchange import Exchange
from geko_proxy.metering.limit_states import Viewer
from geko_proxy.metering.live import Feed, Snapshot
from geko_proxy.metering.windows import month_window
from geko_proxy.relay import EVENT_STREAM_HEADERS, STALLED_S, ClientLeft
from geko_proxy.workspaces.roles import Permission, Role, allowed

if TYPE_CHECKING:
    from uuid import UUID

    from geko_proxy.services import Services

RETRY_MS: Final = 3000
DEAF_S: Final = 5.0  # how often rights are looked up while changes can't be heard
PING_S: Final = 15.0
ENDED: Final = {
    "token_expired": "The access token has expired.",
    "access_ended": "You may not see the usage of this workspace any more.",
    "going_away": "GEKO is being stopped.",
}


class UsageStream:
    """The endpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def listen(self, exchange: Exchange, request: web.BaseRequest) -> web.StreamResponse:
        """200 with an event `usage` at once, and another one when something has changed, at most one a second.

        data: `workspaceId, at, used, leased, limit, remaining` (tokens of this month), `limits` (as in the report),
        `runningTurns`, `tokensPerSecond`. With Last-Event-ID nothing comes before something differs from that event.
        The last event is `end` with `code`: token_expired, access_ended or going_away. Members see the workspace's
        limits and their own, admins and owners all.
        """
        identity = exchange.signed_in()
        place = (identity.tenant_id, identity.workspace_id, identity.user_id)
        async with self._services.usage.live.follow(*place) as feed:
            listener = Listener(self._services, exchange, feed)
            await listener.enter()
            first = await listener.next_event()  # before the head, so that an error has a status
            response = EventSourceResponse(sep="\n", send_timeout=STALLED_S, ping_interval=PING_S)
            response.headers.update(EVENT_STREAM_HEADERS)
            secure(response.headers, exchange)
            try:
                await response.prepare(request)
                async with response:
                    await serve(listener, response, first)
                await response.write_eof()
            except (ConnectionError, TimeoutError) as error:
                raise ClientLeft from error
        return response


async def serve(listener: Listener, response: EventSourceResponse, first: tuple[str, str] | None) -> None:
    """Send events until there is a reason to end."""
    event = first
    await response.write(f"retry: {RETRY_MS}\n\n".encode())
    while True:
        if event is not None:
            await response.send(event[1], id=event[0], event="usage")
        reason = await listener.wait()
        if reason is not None:
            data = {"code": reason, "message": ENDED[reason]}
            await response.send(msgspec.json.encode(data).decode(), event="end")
            return
        try:
            event = await listener.next_event()
        except StoreError:  # it has what was seen last; the database will be back
            event = None


class Listener:
    """One who listens: what they may see, and whether they still may."""

    def __init__(self, services: Services, exchange: Exchange, feed: Feed) -> None:
        self._services = services
        self._exchange = exchange
        self._identity = exchange.signed_in()
        self._feed = feed
        self._role: Role | None = exchange.role
        self._viewer: Viewer | None = None
        self._seen = -1
        self._last_id = exchange.request.headers.get("Last-Event-ID", "")
        self._stamp = self._generations()
        self._checked_at = monotonic()

    async def enter(self) -> None:
        """Find out what the listener may see. Raises StoreError, Refused."""
        assert self._role is not None
        everything = allowed(self._role, Permission.READ_ALL_USAGE)
        self._viewer = await self._services.usage.limit_states.viewer(*self._place, everything=everything)

    async def wait(self) -> str | None:
        """Until the next look at the workspace; why the stream ends, if it does."""
        if not self._feed.closed:
            await self._feed.tick()
        if self._feed.closed:
            return "going_away"
        if self._identity.expires_at <= time():
            return "token_expired"
        try:
            return None if await self._may_go_on() else "access_ended"
        except StoreError:  # nobody can be removed while the database is away
            return None

    async def next_event(self) -> tuple[str, str] | None:
        """Id and data of what is new; None: nothing. Raises StoreError."""
        snapshot = await self._feed.latest()
        if snapshot.number == self._seen:
            return None
        data = await self._data(snapshot)
        self._seen = snapshot.number
        event_id = hashlib.blake2b(msgspec.json.encode(data), digest_size=12).hexdigest()
        if event_id == self._last_id:
            return None
        self._last_id = event_id
        return event_id, msgspec.json.encode({**data, "at": datetime.now(UTC)}).decode()

    @property
    def _place(self) -> tuple[UUID, UUID, UUID]:
        identity = self._identity
        return identity.tenant_id, identity.workspace_id, identity.user_id

    async def _data(self, snapshot: Snapshot) -> dict[str, Any]:
        tenant_id, workspace_id, _ = self._place
        tenant = await self._services.tenants.get(tenant_id)
        assert tenant is not None
        assert self._viewer is not None
        look, month = snapshot.look, month_window(datetime.now(UTC), tenant.time_zone)
        used, leased = look.windows.get((workspace_id, "", month.start.timestamp()), (0, 0))
        limit = look.amounts.get(workspace_id)
        states = await self._services.usage.limit_states.states(
            tenant_id, workspace_id, tenant.time_zone, self._viewer, look
        )
        return {
            "workspaceId": workspace_id,
            "used": used,
            "leased": leased,
            "limit": limit,
            "remaining": None if limit is None else max(0, limit - used - leased),
            "limits": [limit_state_shape(state) for state in states],
            "runningTurns": look.turns,
            "tokensPerSecond": snapshot.tokens_per_second,
        }

    def _generations(self) -> tuple[int | None, ...]:
        services = self._services
        return services.members.generation, services.sessions.generation, services.api_keys.generation

    async def _may_go_on(self) -> bool:
        """Whether nothing was taken from the listener; looked up only when something has changed anywhere."""
        stamp = self._generations()
        if stamp == self._stamp and None not in stamp:
            return True
        if None in stamp and monotonic() - self._checked_at < DEAF_S:
            return True
        self._checked_at = monotonic()
        if not await self._is_signed_in():
            return False
        role = await self._services.members.role(*self._place)
        if role is None or not allowed(role, Permission.READ_USAGE):
            return False
        if role != self._role or stamp[2] != self._stamp[2]:
            self._role, self._seen = role, -1
            await self.enter()
        self._stamp = stamp
        return True

    async def _is_signed_in(self) -> bool:
        key = self._exchange.api_key
        if key is None:
            return await self._services.sessions.is_active(
                self._identity.tenant_id, self._identity.session_id
            )
        text = self._exchange.request.headers.get("Authorization", "").partition(" ")[2].strip()
        return await self._services.api_keys.verify(text) is not None
