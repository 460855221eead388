"""Lists the ledger of a workspace, newest first, page after page by a cursor that later entries don't move."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import msgspec

from geko_proxy.metering.windows import Window
from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from asyncpg import Record

MAX_PAGE: Final = 1000
LAST: Final = UUID(int=2**128 - 1)
MAX_CURSOR: Final = 1000

COLUMNS: Final = (
    "occurred_at, recorded_at, turn_id, run_id, seq, conversation_id, user_id, key_id, kind, endpoint, model, provider,"
    " input_tokens, output_tokens, cached_tokens, reasoning_tokens, tokens, cost, estimated, source"
)
# occurred_at < $4 and <= $9: the first prunes partitions when the plan is made, the second finds the place in the index
PAGE: Final = f"""
select {COLUMNS}
from usage_events
where tenant_id = $1 and workspace_id = $2 and occurred_at >= $3 and occurred_at < $4
    and ($5::uuid is null or user_id = $5) and ($6::uuid is null or key_id = $6)
    and ($7::text is null or endpoint || '/' || model = $7) and ($8::text is null or conversation_id = $8)
    and occurred_at <= $9 and (occurred_at, turn_id, run_id, seq) < ($9, $10, $11, $12)
order by occurred_at desc, turn_id desc, run_id desc, seq desc limit $13"""  # noqa: S608


class Cursor(NamedTuple):
    """The entry after which a page begins."""

    occurred_at: datetime
    turn_id: UUID
    run_id: str
    seq: int

    @property
    def text(self) -> str:
        """As it stands in an address."""
        return base64.urlsafe_b64encode(msgspec.json.encode(tuple(self))).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor in an address. Raises ValueError."""
        if len(text) > MAX_CURSOR:
            raise ValueError("too long")
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            found = cls(*msgspec.json.decode(raw, type=tuple[datetime, UUID, str, int]))
        except (ValueError, msgspec.MsgspecError) as error:
            raise ValueError("not a cursor") from error
        if found.occurred_at.tzinfo is None or "\x00" in found.run_id or not -(2**31) <= found.seq < 2**31:
            raise ValueError("not a cursor")
        return found


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries: of a workspace, whose turns began in a window, and of one person, key, "endpoint/model" or
    conversation where these are given. after: where the page begins."""

    tenant_id: UUID
    workspace_id: UUID
    window: Window
    user_id: UUID | None = None
    key_id: UUID | None = None
    model: str | None = None
    conversation_id: str | None = None
    after: Cursor | None = None


class UsageListing:
    """Reads usage_events by its index on time. Methods raise StoreError when the database is gone."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def page(self, asked: Selection, size: int) -> tuple[list[Record], Cursor | None]:
        """Up to `size` entries, and where the next page begins; None: there is none."""
        place = asked.after or Cursor(asked.window.end, LAST, "", 0)
        filters = (asked.user_id, asked.key_id, asked.model, asked.conversation_id)
        arguments = (asked.workspace_id, asked.window.start, asked.window.end, *filters, *place, size + 1)
        async with self._db.tenant(asked.tenant_id) as scope:
            rows = await scope.fetch(PAGE, *arguments)
        if len(rows) <= size:
            return rows, None
        last = rows[size - 1]
        return rows[:size], Cursor(last["occurred_at"], last["turn_id"], last["run_id"], last["seq"])

    async def pages(self, asked: Selection) -> AsyncIterator[list[Record]]:
        """All entries, page after page: each a short transaction of its own."""
        while True:
            rows, after = await self.page(asked, MAX_PAGE)
            if rows:
                yield rows
            if after is None:
                return
            asked = replace(asked, after=after)
