"""What `quota` asks of an answer that comes with the exchange itself, and not as a chat's stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from geko_proxy.filters.base import EventHook, Exchange, Reply
from geko_proxy.metering.grants import MeteredTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.meter import TurnMeter

Look = Callable[[], Awaitable[None] | None]


class MeteredAnswer(Protocol):
    """One answer of the Agents API, or of a model. Kept in `exchange.state` under this class."""

    meter: TurnMeter

    @property
    def final(self) -> dict[str, Any] | None:
        """The end of the answer, as `TurnMeter.finish` wants it; None while it has none."""

    def hook(self, look: Look) -> EventHook:
        """The event hook of a stream; look: what holds it to its lease."""

    async def take_reply(self, reply: Reply, look: Look) -> Reply | None:
        """Read a reply as far as it is no stream for the client; returns what the client gets instead."""

    def charges(self, turn: MeteredTurn) -> Sequence[Charge]:
        """What the answer is charged, at its end."""


def answer_of(exchange: Exchange) -> MeteredAnswer | None:
    """The answer that was begun for an exchange; None: a chat message's."""
    return exchange.state.get(MeteredAnswer)
