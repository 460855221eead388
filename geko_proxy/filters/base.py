"""The filter contract. A filter subclasses `Filter` and overrides the hooks it needs; the rest costs nothing.

Requests run through the chain from top to bottom in the order of geko.toml; all that comes back (reply, events,
finish) runs from bottom to top. A chat message is one exchange for filters: `on_request` and `on_reply` see the POST
that starts it, the hook that `on_stream` returns sees every event of the answer once (however many browsers listen),
and `on_finish` comes when the answer has ended, not when the POST has.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from geko_proxy.errors import EndStream, Refused
from geko_proxy.exchange import Exchange, Reply, Request, Route
from geko_proxy.sse import SseEvent

if TYPE_CHECKING:
    from geko_proxy.services import Services

Passed = Sequence[SseEvent] | None
EventHook = Callable[[SseEvent], Passed | Awaitable[Passed]]
"""Called for each event; None passes it on as it stands, () drops it, several insert. May raise EndStream.

`async def` where it has to wait. A plain function saves a good part of an event's cost; it may return an awaitable
for the few events for which it does have to wait.
"""

HOOKS = frozenset({"on_request", "on_reply", "on_stream", "on_finish"})


class Failure(enum.Enum):
    """What happens when a filter's hook raises something other than Refused or EndStream."""

    CLOSED = "closed"  # before the head: 502; mid-stream: one error event, then the end
    OPEN = "open"  # logged and counted; the exchange goes on without the filter


@dataclass(frozen=True, slots=True)
class NoOptions:
    """For filters without options."""


class Filter:
    """Base class of all filters: no-op hooks only.

    name: TOML name, log field and metric label. Options: frozen dataclass of the options; its `__post_init__`
    raises ValueError for bad values. routes: the kinds of request it wants to see. failure: default policy.
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    routes: ClassVar[frozenset[Route]] = frozenset({Route.CHAT})
    failure: ClassVar[Failure] = Failure.CLOSED

    def __init__(self, options: Any, services: Services) -> None:
        self.options = options
        self.services = services

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for attribute, value in vars(cls).items():
            if attribute.startswith("on_") and inspect.isfunction(value) and attribute not in HOOKS:
                raise TypeError(
                    f"{cls.__name__}.{attribute} is no hook; hooks are {', '.join(sorted(HOOKS))}"
                )

    async def start(self) -> None:
        """Open what the filter needs. May fail; the filters already started are then stopped."""

    async def stop(self) -> None:
        """Close what `start` opened."""

    async def on_request(self, exchange: Exchange) -> Reply | None:
        """Look at or edit `exchange.request`; a Reply (or raising Refused) answers now, without LibreChat."""

    async def on_reply(self, exchange: Exchange) -> Reply | None:
        """Look at or edit `exchange.reply`: head known, body not yet read; a Reply takes its place."""

    def on_stream(self, exchange: Exchange) -> EventHook | None:
        """Called once per stream of events; None: this filter does not want to see them."""

    async def on_finish(self, exchange: Exchange) -> None:
        """Called exactly once per exchange, also after a refusal, an error or a client that left."""


__all__ = [
    "HOOKS",
    "EndStream",
    "EventHook",
    "Exchange",
    "Failure",
    "Filter",
    "NoOptions",
    "Passed",
    "Refused",
    "Reply",
    "Request",
    "Route",
    "SseEvent",
]
