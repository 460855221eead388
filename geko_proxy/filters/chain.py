"""The ordered, immutable set of filters.

Order: `[[filters]]` of geko.toml. Requests run top to bottom; reply, events and finish run bottom to top.
Which filters override which hook on which route is worked out once, in the constructor: a hook that nobody
overrides costs nothing, and a reply without event hooks is never framed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from geko_proxy.errors import EndStream, FilterError, Refused, StoreError, UpstreamError
from geko_proxy.exchange import Exchange, Reply, Route
from geko_proxy.filters.base import EventHook, Failure, Filter, Passed
from geko_proxy.sse import SseEvent

log = logging.getLogger("geko.filters")

_DECISIONS = (Refused, UpstreamError)  # raised on purpose: no failure of the filter


@dataclass(frozen=True, slots=True)
class Entry:
    """A filter with its policy from geko.toml. timeout_ms: limit of one request or reply hook; None: no limit."""

    filter: Filter
    failure: Failure
    timeout_ms: int | None = None


_Subscribed = tuple[Entry, EventHook]


@dataclass(slots=True)
class _Hooks:
    request: list[Entry] = field(default_factory=list)
    reply: list[Entry] = field(default_factory=list)
    stream: list[Entry] = field(default_factory=list)
    finish: list[Entry] = field(default_factory=list)


def _overrides(entry: Entry, hook: str) -> bool:
    return getattr(type(entry.filter), hook) is not getattr(Filter, hook)


class Chain:
    """Runs the hooks of its filters. Failures are counted per filter in `failures`."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self.failures: dict[str, int] = {entry.filter.name: 0 for entry in entries}
        self._started: list[Filter] = []
        self._hooks = {route: self._hooks_of(route) for route in Route}

    def _hooks_of(self, route: Route) -> _Hooks:
        hooks = _Hooks()
        for entry in self.entries:
            if route not in entry.filter.routes:
                continue
            if _overrides(entry, "on_request"):
                hooks.request.append(entry)
            for name, found in (
                ("on_reply", hooks.reply),
                ("on_stream", hooks.stream),
                ("on_finish", hooks.finish),
            ):
                if _overrides(entry, name):
                    found.insert(0, entry)
        return hooks

    async def start(self) -> None:
        """Start the filters in order. If one fails, those already started are stopped, in reverse."""
        try:
            for entry in self.entries:
                await entry.filter.start()
                self._started.append(entry.filter)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop what was started, in reverse; a failure is logged and the rest is stopped all the same."""
        while self._started:
            running = self._started.pop()
            try:
                await running.stop()
            except Exception:
                log.exception("filter %s failed to stop", running.name)

    async def request(self, exchange: Exchange) -> Reply | None:
        """Run the request hooks until one answers."""
        for entry in self._hooks[exchange.route].request:
            try:
                if entry.timeout_ms is None:
                    reply = await entry.filter.on_request(exchange)
                else:
                    async with asyncio.timeout(entry.timeout_ms / 1000):
                        reply = await entry.filter.on_request(exchange)
            except _DECISIONS:
                raise
            except Exception as error:  # noqa: BLE001  # the filter's policy decides
                self._failed(entry, "on_request", exchange, error)
                continue
            if reply is not None:
                return reply
        return None

    async def reply(self, exchange: Exchange, reply: Reply) -> Reply:
        """Run the reply hooks on LibreChat's reply."""
        exchange.reply = reply
        for entry in self._hooks[exchange.route].reply:
            try:
                if entry.timeout_ms is None:
                    instead = await entry.filter.on_reply(exchange)
                else:
                    async with asyncio.timeout(entry.timeout_ms / 1000):
                        instead = await entry.filter.on_reply(exchange)
            except _DECISIONS:
                raise
            except Exception as error:  # noqa: BLE001  # the filter's policy decides
                self._failed(entry, "on_reply", exchange, error)
                continue
            if instead is not None:
                exchange.reply.close()
                exchange.reply = instead
        return exchange.reply

    def events(self, exchange: Exchange) -> EventHooks | None:
        """Ask each filter once whether it wants this stream's events; None: nobody does."""
        subscribed: list[_Subscribed] = []
        for entry in self._hooks[exchange.route].stream:
            try:
                hook = entry.filter.on_stream(exchange)
            except Exception as error:  # noqa: BLE001  # the filter's policy decides
                self._failed(entry, "on_stream", exchange, error)
                continue
            if hook is not None:
                subscribed.append((entry, hook))
        return EventHooks(self, exchange, subscribed) if subscribed else None

    def must_finish(self, exchange: Exchange) -> bool:
        """Whether a filter wants to see the end of this exchange."""
        return bool(self._hooks[exchange.route].finish)

    async def finish(self, exchange: Exchange) -> None:
        """Run the finish hooks, all of them, whatever some of them do."""
        for entry in self._hooks[exchange.route].finish:
            try:
                await entry.filter.on_finish(exchange)
            except Exception:
                self.failures[entry.filter.name] += 1
                log.exception("%s: filter %s failed in on_finish", exchange.id, entry.filter.name)

    def _failed(self, entry: Entry, hook: str, exchange: Exchange, error: Exception) -> None:
        name = entry.filter.name
        self.failures[name] += 1
        away = isinstance(error, StoreError)  # hundreds of requests meet it: no stack trace for each
        log.error(
            "%s: filter %s failed in %s: %s", exchange.id, name, hook, error, exc_info=None if away else error
        )
        if entry.failure is Failure.CLOSED:
            if away and hook in ("on_request", "on_reply"):
                raise error  # nothing has begun: the client is told to try again
            raise FilterError(name, hook) from error


class EventHooks:
    """The event hooks of one stream, in the order in which events pass them (bottom to top)."""

    __slots__ = ("_chain", "_exchange", "_hooks")

    def __init__(self, chain: Chain, exchange: Exchange, hooks: list[_Subscribed]) -> None:
        self._chain = chain
        self._exchange = exchange
        self._hooks = tuple(hooks)

    async def run(self, event: SseEvent) -> Sequence[SseEvent]:
        """Pass an event through all hooks. Raises EndStream, and FilterError for a closed filter's failure."""
        waiting = self.start(event)
        return (event,) if waiting is None else await waiting

    def start(self, event: SseEvent) -> Coroutine[Any, Any, Sequence[SseEvent]] | None:
        """Pass an event through the hooks without waiting. None: it has passed them all and goes on as it stands.

        Else a hook has to wait, or gave other events: await what is returned for the events to pass on.
        Raises as `run`.
        """
        hooks = self._hooks
        for number, subscribed in enumerate(hooks):
            try:
                given = subscribed[1](event)
            except (EndStream, *_DECISIONS):
                raise
            except Exception as error:  # noqa: BLE001  # the filter's policy decides
                self._failed(subscribed, error)
                continue
            if given is not None:
                return self._go_on(subscribed, given, event, hooks[number + 1 :])
        return None

    async def _go_on(
        self,
        subscribed: _Subscribed,
        given: Passed | Awaitable[Passed],
        event: SseEvent,
        left: Sequence[_Subscribed],
    ) -> Sequence[SseEvent]:
        """Take what a hook gave for an event, and pass it through the hooks that are left."""
        events = await self._taken(subscribed, event, lambda _: given)
        for each in left:
            events = [out for one in events for out in await self._taken(each, one, each[1])]
        return events

    async def _taken(self, subscribed: _Subscribed, event: SseEvent, hook: EventHook) -> Sequence[SseEvent]:
        try:
            given = hook(event)
            instead = await given if isinstance(given, Awaitable) else given
        except (EndStream, *_DECISIONS):
            raise
        except Exception as error:  # noqa: BLE001  # the filter's policy decides
            self._failed(subscribed, error)
            return (event,)
        return (event,) if instead is None else instead

    def _failed(self, subscribed: _Subscribed, error: Exception) -> None:
        self._chain._failed(subscribed[0], "event hook", self._exchange, error)
        self._hooks = tuple(each for each in self._hooks if each is not subscribed)
