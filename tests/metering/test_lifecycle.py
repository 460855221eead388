"""The life of turns on several instances, in any order, over a real PostgreSQL: the books agree after every step."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import ClassVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from geko_proxy.metering.leases import Amount, Busy, Lease, Leases, NewTurn
from geko_proxy.metering.ledger import RECOVERY, Charge, Source
from geko_proxy.metering.lifecycle import ENDED, STEPS, Outcome, TurnState
from geko_proxy.metering.limits import Limit, LimitScope, Unit, holds_of
from geko_proxy.metering.windows import Period
from geko_proxy.storage.database import Database
from geko_proxy.storage.migrations import migrate
from tests.conftest import SQL, run, with_database

COST = 3  # of a token
INSTANCES = 3

# Every change of a turn's state is written down by the database itself.
WATCH = """
create table steps (turn_id uuid, before text, after text);
create function note_step() returns trigger language plpgsql security definer as $$
begin
    insert into steps values (new.turn_id, old.state, new.state);
    return null;
end $$;
create trigger note_step after update of state on turns for each row execute function note_step();"""

# A member's window counts what that member used, the others everything.
WINDOWS = """
select w.limit_id, w.subject, w.unit, w.used, w.leased, q.amount,
    coalesce((select sum(case w.unit when 'cost' then e.cost else e.tokens end) from usage_events e
        where e.tenant_id = $1 and (q.scope <> 'member' or e.user_id::text = w.subject)), 0) as booked,
    coalesce((select sum(case w.unit when 'cost' then l.granted_cost else l.granted end)
        from leases l join turns t using (tenant_id, turn_id)
        where t.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (
            select * from unnest(t.limit_ids, t.subjects, t.window_starts))), 0) as held
from limit_windows w join quota_limits q using (tenant_id, limit_id) where w.tenant_id = $1"""

DAYS = """
select kind, model, sum(calls)::int, sum(tokens)::int, sum(estimated_tokens)::int, sum(cost)::int from usage_days
where tenant_id = $1 group by 1, 2 order by 1, 2"""
EVENTS = """
select kind, model, sum(case when tokens < 0 then -1 else 1 end)::int, sum(tokens)::int,
    coalesce(sum(tokens) filter (where estimated), 0)::int, sum(cost)::int from usage_events
where tenant_id = $1 group by 1, 2 order by 1, 2"""


TURNS = """
select t.turn_id, t.state, l.turn_id is not null as leased, coalesce(sum(e.tokens), 0) as charged,
    coalesce(sum(e.cost), 0) as cost
from turns t left join leases l using (tenant_id, turn_id) left join usage_events e using (tenant_id, turn_id)
where t.tenant_id = $1 group by 1, 2, 3"""


@dataclass
class Known:
    """What the test knows of a turn. leases: as each instance has it; entries: what should be charged."""

    leases: dict[int, Lease]
    owner: int
    conversation: str | None
    state: TurnState
    entries: dict[tuple[str, int], Charge] = field(default_factory=dict)
    gone: bool = False  # the server has lost its start

    @property
    def runs(self) -> bool:
        return self.state not in ENDED and not self.gone


def unsure(known: Known) -> bool:
    """Whether a limit that is new misses what is booked for this turn later (docs/recovery.md, known limits)."""
    return known.gone or known.state is TurnState.RECOVERED


def charge(run_id: str, seq: int, tokens: int, *, estimated: bool = False) -> Charge:
    source = Source.PROVIDER
    if estimated:
        source = Source.RECOVERED if run_id == RECOVERY else Source.ESTIMATE
    return Charge(
        run_id, seq, "chat", "m", "", tokens - 1, 1, estimated=estimated, source=source, cost=tokens * COST
    )


# The provider always reports the same of a call.
reports = st.lists(st.sampled_from([charge("run", 1, 30), charge("run", 2, 7)]), unique=True, max_size=2)
tokens = st.integers(1, 90)


@st.composite
def told(draw: st.DrawFn, run_id: str) -> list[Charge]:
    """What somebody says at the end: reports, and an estimate of the rest; or LibreChat's own sum of it all."""
    if run_id == RECOVERY and draw(st.booleans()):
        return [charge(RECOVERY, -10, draw(tokens))]
    found = draw(reports)
    if draw(st.booleans()):
        found = [*found, charge(run_id, -1, draw(tokens), estimated=True)]
    return found


def corrected(before: dict[tuple[str, int], Charge], late: list[Charge]) -> dict[tuple[str, int], Charge]:
    """What a recovered turn is charged once its own instance has settled it (sql/0018)."""
    said = {(each.run_id, each.seq): each for each in late}
    unseen = any(not each.estimated and run != RECOVERY and (run, seq) not in said
                 for (run, seq), each in before.items())  # fmt: skip
    exact = bool(before) and not any(each.estimated for each in before.values())
    if unseen or (exact and any(each.estimated for each in late)):
        return before
    return {key: each for key, each in before.items() if key[0] != RECOVERY} | said


class Life(RuleBasedStateMachine):
    """Turns of one workspace, with limits for it and for each member, in tokens and in money."""

    dsn: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.turns: dict[UUID, Known] = {}
        self.adopted: list[tuple[int, UUID]] = []

    def do(self, work: object) -> object:
        return self.runner.run(work)  # type: ignore[arg-type]

    @initialize(amount=st.integers(200, 2000), member=st.integers(600, 4000))
    def prepare(self, amount: int, member: int) -> None:
        self.tenant, self.workspace, self.users = uuid4(), uuid4(), [uuid4(), uuid4()]
        whole = Limit(self.workspace, self.workspace, LimitScope.WORKSPACE, amount=amount)
        each = Limit(
            uuid4(), self.workspace, LimitScope.MEMBER, "*", Period.DAY, unit=Unit.COST, amount=member
        )
        self.limits = [whole, each]
        self.now = datetime.now(UTC)
        self.runner.run(self._open())
        for at, conversation in enumerate((None, "a", "b")):
            self.begin(at, 0, conversation, 20, 10)

    async def _open(self) -> None:
        self.database = await Database.open(self.dsn, max_size=3)
        self.instances = [Leases(self.database, ttl_s=3600) for _ in range(INSTANCES)]
        self.books = await asyncpg.connect(self.dsn)
        await self.books.execute("insert into tenants (tenant_id, name) values ($1, 'T')", self.tenant)
        await self.books.execute(
            "insert into workspaces (tenant_id, workspace_id, name) values ($1, $2, 'W')",
            self.tenant,
            self.workspace,
        )
        for limit in self.limits:
            await self._put(limit)

    async def _put(self, limit: Limit) -> None:
        await self.books.execute(
            "insert into quota_limits (tenant_id, limit_id, workspace_id, scope, subject, period, unit, amount)"
            " values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (tenant_id, limit_id) do update set amount = $8",
            self.tenant,
            limit.limit_id,
            self.workspace,
            limit.scope,
            limit.subject,
            limit.period,
            limit.unit,
            limit.amount,
        )

    def teardown(self) -> None:
        async def close() -> None:
            await self.books.execute("delete from tenants where tenant_id = $1", self.tenant)
            await self.books.close()
            await self.database.close()

        if hasattr(self, "books"):
            self.runner.run(close())
        self.runner.close()

    def pick(self, data: st.DataObject) -> tuple[UUID, Known]:
        turn_id = data.draw(st.sampled_from(list(self.turns)))
        return turn_id, self.turns[turn_id]

    async def _overbooked(self) -> set[tuple[UUID, str]]:
        rows = await self.books.fetch(WINDOWS, self.tenant)
        return {
            (row["limit_id"], row["subject"]) for row in rows if row["used"] + row["leased"] > row["amount"]
        }

    async def _running_in(self, user: UUID, conversation: str | None) -> bool:
        return any(
            each.runs and each.conversation == conversation and lease.turn.user_id == user
            for each in self.turns.values()
            for lease in each.leases.values()
            if conversation is not None
        )

    @rule(
        at=st.integers(0, INSTANCES - 1),
        user=st.integers(0, 1),
        conversation=st.sampled_from([None, "a", "b"]),
        need=st.integers(1, 60),
        allowance=st.integers(0, 60),
    )
    def begin(self, at: int, user: int, conversation: str | None, need: int, allowance: int) -> None:
        async def go() -> None:
            turn = NewTurn(
                self.tenant, self.workspace, self.users[user], conversation, "E", "m", started_at=self.now
            )
            holds = holds_of(self.limits, turn.actor, self.now, "UTC")
            full = await self._overbooked()
            given = await self.instances[at].begin(
                turn, holds, Amount(need, need * COST), Amount(allowance, allowance * COST)
            )
            assert isinstance(given, Busy) == await self._running_in(turn.user_id, conversation)
            if isinstance(given, Lease):
                assert not await self._overbooked() & {(hold.limit_id, hold.subject) for hold in holds}
                assert need <= given.granted.tokens - given.context <= need + allowance
                self.turns[turn.turn_id] = Known({at: given}, at, conversation, TurnState.ADMITTED)
            else:
                assert await self._overbooked() == full

        self.runner.run(go())

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), name=st.sampled_from(["a", "b", "c"]))
    def name(self, data: st.DataObject, name: str) -> None:
        _, known = self.pick(data)
        if known.conversation is not None or not known.runs:
            return
        at, lease = next(iter(known.leases.items()))
        taken = self.runner.run(self._running_in(lease.turn.user_id, name))
        self.runner.run(self.instances[at].set_conversation(lease, name))
        if not taken:
            known.conversation = name
            known.state = TurnState.RUNNING if known.state is TurnState.ADMITTED else known.state
            known.leases[at] = replace(lease, turn=replace(lease.turn, conversation_id=name))

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), consumed=st.integers(0, 200))
    def heartbeat(self, data: st.DataObject, consumed: int) -> None:
        turn_id, known = self.pick(data)
        at = data.draw(st.sampled_from(sorted(known.leases)))
        beat = self.instances[at].heartbeat(self.tenant, {turn_id: Amount(consumed, consumed * COST)})
        gone = self.runner.run(beat)
        assert (turn_id in gone) == (not known.runs or known.owner != at)
        if not gone and known.state is TurnState.ADMITTED:
            known.state = TurnState.RUNNING

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), need=st.integers(0, 300), step=st.integers(0, 100), consumed=st.integers(0, 300))
    def top_up(self, data: st.DataObject, need: int, step: int, consumed: int) -> None:
        turn_id, known = self.pick(data)
        at = data.draw(st.sampled_from(sorted(known.leases)))
        amounts = [Amount(number, number * COST) for number in (need, step, consumed)]

        async def go() -> None:
            full = await self._overbooked()
            given = await self.instances[at].top_up(known.leases[at], *amounts)
            if known.state in ENDED:
                assert given.tokens == 0
                return
            if known.gone and await self._is_there(turn_id):
                known.gone, known.state, known.owner = False, TurnState.RUNNING, at
            elif given.tokens:
                assert not await self._overbooked() - full

        self.runner.run(go())

    async def _is_there(self, turn_id: UUID) -> bool:
        return bool(
            await self.books.fetchval("select exists (select from turns where turn_id = $1)", turn_id)
        )

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        turn_id, _ = self.pick(data)
        sql = "update leases set expires_at = now() - interval '1 hour' where turn_id = $1"
        self.runner.run(self.books.execute(sql, turn_id))

    @precondition(lambda self: any(known.runs for known in self.turns.values()))
    @rule(data=st.data(), at=st.integers(0, INSTANCES - 1), charges=st.none() | told(RECOVERY))
    def die(self, data: st.DataObject, at: int, charges: list[Charge] | None) -> None:
        """An instance vanishes; another one takes its turns, and settles them unless it vanishes too."""
        self.expire(data)
        self.adopt(at, 3)
        if charges is not None and self.adopted:
            self.recover(data, charges)

    @rule(at=st.integers(0, INSTANCES - 1), most=st.integers(1, 3))
    def adopt(self, at: int, most: int) -> None:
        taken = self.runner.run(self.instances[at].adopt(most=most))
        assert len(taken) <= most
        order = list(self.turns)  # the database gives them in any
        for each in sorted(taken, key=lambda each: order.index(each.lease.turn_id)):
            known = self.turns[each.lease.turn_id]
            assert known.runs
            assert each.owner == self.instances[known.owner].instance_id
            known.owner, known.state = at, TurnState.LOST
            holds = next(iter(known.leases.values())).holds
            known.leases[at] = replace(each.lease, holds=holds)
            self.adopted.append((at, each.lease.turn_id))

    @precondition(lambda self: self.adopted)
    @rule(data=st.data(), charges=told(RECOVERY))
    def recover(self, data: st.DataObject, charges: list[Charge]) -> None:
        """Also by an adopter that was slow, and again."""
        at, turn_id = data.draw(st.sampled_from(self.adopted))
        known = self.turns[turn_id]
        settled = self.instances[at].settle(known.leases[at], Outcome.LOST, charges, recovering=True)
        self.runner.run(settled)
        if known.state not in ENDED:
            known.entries = {(each.run_id, each.seq): each for each in charges}
            known.state, known.gone = TurnState.RECOVERED, False

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), charges=told(""))
    def settle(self, data: st.DataObject, outcome: Outcome, charges: list[Charge]) -> None:
        """By its own instance: in time, late, or again."""
        _, known = self.pick(data)
        at = next(iter(known.leases))
        self.runner.run(self.instances[at].settle(known.leases[at], outcome, charges))
        if known.state is TurnState.RECOVERED:
            known.entries = corrected(known.entries, charges)
        elif known.state is not TurnState.SETTLED:
            known.entries = {(each.run_id, each.seq): each for each in charges}
        known.state, known.gone = TurnState.SETTLED, False

    @rule(which=st.integers(0, 1), amount=st.integers(0, 4000))
    def change_limit(self, which: int, amount: int) -> None:
        self.limits[which] = replace(self.limits[which], amount=amount)
        self.runner.run(self._put(self.limits[which]))

    @precondition(lambda self: len(self.limits) < 3 and not any(map(unsure, self.turns.values())))
    @rule(amount=st.integers(0, 2000))
    def new_limit(self, amount: int) -> None:
        """One for all models; the turns that run are held to it too."""
        scope, unit = LimitScope.MODEL, Unit.TOKENS
        limit = Limit(uuid4(), self.workspace, scope, "E/*", unit=unit, amount=amount)
        self.limits.append(limit)

        async def go() -> None:
            await self._put(limit)
            for known in self.turns.values():
                at = known.owner
                turn = known.leases[at].turn
                holds = holds_of(self.limits, turn.actor, turn.started_at, "UTC")
                assert await self.instances[at].hold(known.leases[at], holds) == known.runs
                for each, lease in known.leases.items():
                    known.leases[each] = replace(lease, holds=holds)

        self.runner.run(go())

    @precondition(lambda self: any(known.runs for known in self.turns.values()))
    @rule(data=st.data())
    def lose_start(self, data: st.DataObject) -> None:
        """The server crashes before the start of a turn is on disk."""
        running = [turn_id for turn_id, known in self.turns.items() if known.runs]
        turn_id = data.draw(st.sampled_from(running))

        async def go() -> None:
            async with self.books.transaction():
                await self.books.execute(
                    "update limit_windows w set leased = w.leased - case w.unit when 'cost' then l.granted_cost"
                    " else l.granted end from turns t join leases l using (tenant_id, turn_id)"
                    " where t.turn_id = $1 and (w.limit_id, w.subject, w.starts_at) in ("
                    " select * from unnest(t.limit_ids, t.subjects, t.window_starts))",
                    turn_id,
                )
                await self.books.execute("delete from turns where turn_id = $1", turn_id)

        self.runner.run(go())
        self.turns[turn_id].gone = True

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "books"):
            self.runner.run(self._check())

    async def _check(self) -> None:
        for row in await self.books.fetch("select before, after from steps where before <> after"):
            assert TurnState(row["after"]) in STEPS[TurnState(row["before"])], dict(row)
        await self.books.execute("truncate steps")
        for row in await self.books.fetch(WINDOWS, self.tenant):
            assert row["used"] == row["booked"], dict(row)
            assert row["leased"] == row["held"], dict(row)
        assert await self.books.fetch(DAYS, self.tenant) == await self.books.fetch(EVENTS, self.tenant)
        counted = await self.books.fetchrow(
            "select (select coalesce(sum(turns), 0) from usage_days where tenant_id = $1),"
            " (select count(distinct turn_id) from usage_events where tenant_id = $1)",
            self.tenant,
        )
        assert counted is not None
        assert counted[0] == counted[1]
        await self._check_turns()

    async def _check_turns(self) -> None:
        rows = await self.books.fetch(TURNS, self.tenant)
        found = {row["turn_id"]: row for row in rows}
        assert found.keys() == {turn_id for turn_id, known in self.turns.items() if not known.gone}
        for turn_id, row in found.items():
            known = self.turns[turn_id]
            state = TurnState(row["state"])
            assert row["leased"] == (state not in ENDED)
            assert state in (known.state, TurnState.CUT) if known.runs else state is known.state
            assert row["charged"] == sum(each.tokens for each in known.entries.values())
            assert row["cost"] == sum(each.cost for each in known.entries.values())


@pytest.fixture
def watched_dsn(server_dsn: str) -> Iterator[str]:
    """A migrated database that writes down every step."""
    name = f"geko_life_{os.getpid()}"
    dsn = with_database(server_dsn, name)
    asyncio.run(run(server_dsn, f"create database {name}"))
    asyncio.run(migrate(dsn, SQL))
    asyncio.run(run(dsn, WATCH))
    yield dsn
    asyncio.run(run(server_dsn, f"drop database {name} with (force)"))


def test_the_books_agree_whatever_happens(watched_dsn: str) -> None:
    Life.dsn = watched_dsn
    chosen = settings(
        max_examples=40,
        stateful_step_count=50,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(Life, settings=chosen)


def test_every_state_has_its_steps() -> None:
    assert STEPS.keys() == set(TurnState)
    assert not STEPS[TurnState.SETTLED]
    reached = {after for steps in STEPS.values() for after in steps}
    assert reached == set(TurnState) - {TurnState.ADMITTED}
