"""What a program is told while its quota gets less: headers on the reply, and an event `quota` in the stream.

GEKO's own headers and not the fields of draft-ietf-httpapi-ratelimit-headers: most clients that read those take them
for a limit of requests, and would wait until the month ends (decision 0063).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from geko_proxy.client_api.chat_events import ClientEvent
from geko_proxy.errors import StoreError
from geko_proxy.metering.standing import Standing

if TYPE_CHECKING:
    from geko_proxy.metering.standing import Standings

log = logging.getLogger("geko.chat")


class QuotaWarning:
    """Looks how far the limits of one turn are used up, and says each threshold once."""

    def __init__(self, standings: Standings, tenant_id: UUID, turn_id: UUID | None) -> None:
        self._standings = standings
        self._tenant_id = tenant_id
        self._turn_id = turn_id
        self._told = 0

    async def look(self) -> Standing | None:
        """The tightest limit; None without one, and when the database is away: an answer does not fail for that."""
        if self._turn_id is None:  # no quota filter
            return None
        try:
            return await self._standings.of_turn(self._tenant_id, self._turn_id)
        except StoreError as error:
            log.warning("no standing of turn %s: %s", self._turn_id, error)
            return None

    def event(self, standing: Standing | None) -> list[ClientEvent]:
        """The event for a threshold that was not told yet."""
        if standing is None or (standing.threshold or 0) <= self._told:
            return []
        self._told = standing.threshold or 0
        return [ClientEvent("quota", data_of(standing))]

    async def before_end(self, events: Sequence[ClientEvent]) -> list[ClientEvent]:
        """A portion of events; with the answer's end a warning before it: the answer is charged by then."""
        if not events or events[-1].name not in ("final", "error"):
            return list(events)
        return [*events[:-1], *self.event(await self.look()), events[-1]]


def headers_of(standing: Standing | None, now: datetime | None = None) -> Mapping[str, str]:
    """The headers of a reply; none where nothing limits."""
    if standing is None:
        return {}
    left = standing.resets_at - (now or datetime.now(UTC))
    return {
        "X-GEKO-Quota-Used-Percent": str(standing.percent),
        "X-GEKO-Quota-Reset": str(max(0, int(left.total_seconds()))),
    }


def data_of(standing: Standing) -> dict[str, Any]:
    """The data of the event."""
    return {
        "threshold": standing.threshold,
        "usedPercent": standing.percent,
        "scope": standing.scope,
        "unit": standing.unit,
        "used": standing.used,
        "amount": standing.amount,
        "remaining": max(0, standing.amount - standing.used),
        "resetsAt": standing.resets_at,
    }
