"""Where an answer is read: found by its owner alone, and not asked for more than needed."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from geko_proxy.accounts.tokens import Identity
from geko_proxy.errors import Refused
from geko_proxy.peers import finder as module
from geko_proxy.peers.finder import MAX_MISSES, MISSES_S, PAUSE_S, TurnFinder
from geko_proxy.peers.instances import Instances
from geko_proxy.storage.database import Database
from geko_proxy.workspaces.roles import Role
from tests.conftest import Account

INSERT = """
insert into turns (tenant_id, workspace_id, user_id, turn_id, conversation_id, instance_id, state, outcome, endpoint,
    model, started_at, ended_at)
values ($1, $2, $3, $4, $5, $6, case when $7::text is null then 'running' else 'settled' end, $7, 'E', 'm',
    now() - interval '1 min', now() - make_interval(secs => $8))"""


class Counted:
    """A database that counts look-ups, each of which takes a moment."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.calls = 0

    async def call(self, *args: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(0.01)
        return await self._database.call(*args)


def caller(account: Account) -> Identity:
    return Identity(account.user_id, account.tenant_id, account.workspace_id, Role.OWNER, uuid4(), 2e9)


async def add(
    database: Database,
    account: Account,
    instance: UUID,
    *,
    name: str | None = "c",
    outcome: str | None = None,
    ago_s: float | None = None,
) -> UUID:
    turn_id = uuid4()
    connection = await asyncpg.connect(database.dsn)
    await connection.execute(INSERT, *account.place, turn_id, name, instance, outcome, ago_s)
    await connection.close()
    return turn_id


async def test_the_running_turn_of_the_caller_and_of_nobody_else(
    database: Database, account: Account, stranger: Account
) -> None:
    mine, other = (Instances(database, None, uuid4()) for _ in range(2))
    other.url = "http://10.0.0.2:2"
    await other.beat()
    finder = TurnFinder(database, mine)
    await add(database, account, mine.instance_id, outcome="done", ago_s=1)
    turn_id = await add(database, account, other.instance_id)
    place = await finder.find(caller(account), "c")
    assert place is not None
    assert (place.turn_id, place.instance_id, place.url) == (turn_id, other.instance_id, other.url)
    assert place.running
    assert await finder.latest(caller(account)) == place
    for account_of_another in (
        stranger,
        account._replace(user_id=stranger.user_id),
        account._replace(workspace_id=stranger.workspace_id),
        account._replace(tenant_id=stranger.tenant_id),
    ):
        assert await TurnFinder(database, mine).find(caller(account_of_another), "c") is None
        assert await TurnFinder(database, mine).latest(caller(account_of_another)) is None


@pytest.mark.parametrize(
    ("outcome", "ago_s", "found"),
    [("done", 1, True), ("cut", 29, True), ("done", 31, False), ("lost", 1, False), ("refused", 1, False)],
)
async def test_a_turn_counts_for_a_while_after_its_end(
    database: Database, account: Account, outcome: str, ago_s: float, found: bool
) -> None:
    finder = TurnFinder(database, Instances(database, None, uuid4()))
    await add(database, account, uuid4(), outcome=outcome, ago_s=ago_s)
    place = await finder.find(caller(account), "c")
    assert (place is not None) is found
    if place is not None:
        assert not place.running
        assert place.url is None  # its instance is gone
    assert await finder.latest(caller(account)) is None


async def test_many_who_miss_cost_few_questions(database: Database, account: Account) -> None:
    counted, now = Counted(database), 0.0
    instances = Instances(database, None, uuid4())
    finder = TurnFinder(counted, instances, lambda: now)  # type: ignore[arg-type]
    found = await asyncio.gather(*(finder.find(caller(account), "c") for _ in range(40)))
    assert found == [None] * 40
    assert counted.calls == 1
    assert await finder.find(caller(account), "c") is None
    assert counted.calls == 1  # it is remembered for a moment
    now = PAUSE_S + 0.01
    turn_id = await add(database, account, uuid4())
    place = await finder.find(caller(account), "c")
    assert place is not None
    assert place.turn_id == turn_id


async def test_a_turn_that_is_about_to_begin_is_waited_for(database: Database, account: Account) -> None:
    one, two = (Instances(database, None, uuid4()) for _ in range(2))
    for each in (two, one):
        await each.beat()
    asking = asyncio.create_task(TurnFinder(database, one).find(caller(account), "c"))
    await asyncio.sleep(0.1)
    await add(database, account, two.instance_id)
    assert await asking is not None


async def test_who_asks_for_too_many_is_told_to_wait(
    database: Database, account: Account, stranger: Account
) -> None:
    counted, now = Counted(database), 0.0
    finder = TurnFinder(counted, Instances(database, None, uuid4()), lambda: now)  # type: ignore[arg-type]
    for number in range(MAX_MISSES):
        assert await finder.find(caller(account), f"c{number}") is None
    with pytest.raises(Refused) as refused:
        await finder.find(caller(account), "another")
    assert refused.value.status == 429
    assert counted.calls == MAX_MISSES
    assert await finder.find(caller(stranger), "c") is None
    now = MISSES_S + 1
    assert await finder.find(caller(account), "another") is None


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 101, "é", "a\x00"])
async def test_what_is_no_id_is_not_asked_for(name: str) -> None:
    finder = TurnFinder(None, None)  # type: ignore[arg-type]
    assert await finder.find(None, name) is None  # type: ignore[arg-type]


def test_it_keeps_what_the_owner_keeps() -> None:
    from geko_proxy.turns import LINGER_S

    assert module.LINGER_S == LINGER_S
