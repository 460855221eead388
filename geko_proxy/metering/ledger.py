"""What was used: one Charge for each model call, and the append-only table usage_events that keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID

from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from asyncpg import Record


RECOVERY: Final = "recovery"
"""The run of charges that another instance made up for a turn; a late settlement takes them back (sql/0018)."""

# What the calls of these kinds give is (a part of) the answer that is also metered as its stream.
ANSWER_KINDS: Final = ("chat", "summary")
ANSWERS_SQL: Final = ", ".join(f"'{kind}'" for kind in ANSWER_KINDS)


class Source(StrEnum):
    """Who says what a call has used."""

    PROVIDER = "provider"
    ESTIMATE = "estimate"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class Charge:
    """The tokens of one model call, billed once.

    run_id, seq: LibreChat's own names for the call; (turn, run_id, seq) is the key that keeps it from being billed
    twice (contract §4.7 rule 1). GEKO's own entries have a negative seq.
    kind: "chat", or LibreChat's usage_type: "summarization", "subagent", "sequential".
    input_tokens: the whole prompt, cached parts included; cached_tokens: the part of it that came from a cache.
    reasoning_tokens: hidden reasoning, only as far as output_tokens does not hold it.
    cost: in billionths of the currency; 0 for a model without a price. endpoint: of the model that has answered, None:
    the one that the turn was started with.
    """

    run_id: str
    seq: int
    kind: str
    model: str
    provider: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    source: Source = Source.PROVIDER
    cost: int = 0
    endpoint: str | None = None

    @property
    def tokens(self) -> int:
        """What the quota is charged: input + output + hidden reasoning."""
        return self.input_tokens + self.output_tokens + self.reasoning_tokens


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger: a charge, whose it is and when its turn began."""

    turn_id: UUID
    workspace_id: UUID
    user_id: UUID
    conversation_id: str | None
    occurred_at: datetime
    charge: Charge


TURN_ENTRIES = """
select turn_id, workspace_id, user_id, conversation_id, occurred_at, run_id, seq, kind, model, provider,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, source, cost, endpoint
from usage_events where tenant_id = $1 and turn_id = $2 order by recorded_at, run_id, seq"""


# A message that is charged by its calls counts as what its stream told of, by the answer that its calls name: they may
# come to more than LibreChat stored, and titles carry the answer's id as well.
CONVERSATION_RUNS = f"""
select e.run_id, sum(e.tokens)::bigint as tokens
from usage_events e left join turns t on t.tenant_id = $1 and t.turn_id = e.turn_id
where e.tenant_id = $1 and e.workspace_id = $2 and e.occurred_at > $3 and e.conversation_id = $4 and e.turn_id <> $5
    and t.call_kind is null
group by e.run_id
union all
select distinct c.message_id, m.seen_tokens
from turns m join turns c on c.tenant_id = $1 and c.parent_turn_id = m.turn_id
where m.tenant_id = $1 and m.workspace_id = $2 and m.started_at > $3 and m.conversation_id = $4 and m.turn_id <> $5
    and m.seen_tokens is not null and c.call_kind in ({ANSWERS_SQL}) and c.message_id is not null"""  # noqa: S608


class Ledger:
    """Reads usage_events. Only `Leases.settle` writes to it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def of_turn(self, tenant_id: UUID, turn_id: UUID) -> list[Entry]:
        """Everything that was charged for one turn, oldest first."""
        async with self._db.tenant(tenant_id) as scope:
            rows = await scope.fetch(TURN_ENTRIES, turn_id)
        return [entry_of(row) for row in rows]

    async def other_runs(
        self, tenant_id: UUID, workspace_id: UUID, conversation_id: str, turn_id: UUID, since: datetime
    ) -> dict[str, int]:
        """What the other turns of a conversation that began after `since` were charged, by LibreChat's run id."""
        async with self._db.tenant(tenant_id) as scope:
            rows = await scope.fetch(CONVERSATION_RUNS, workspace_id, since, conversation_id, turn_id)
        return {row["run_id"]: row["tokens"] for row in rows}


def entry_of(row: Record) -> Entry:
    """A row of TURN_ENTRIES as an entry."""
    charge = {name: row[name] for name in Charge.__slots__}
    owner = {name: row[name] for name in Entry.__slots__ if name != "charge"}
    return Entry(**owner, charge=Charge(**charge | {"source": Source(row["source"])}))
