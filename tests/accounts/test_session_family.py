"""The family of a session's refresh tokens as a state machine, on a real database, in any order of events."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from geko_proxy.accounts.sessions import InvalidSession, ReusedToken, Rotated, Sessions
from geko_proxy.storage.database import Database
from tests.conftest import Account, register

T = TypeVar("T")

IDLE_S, MAX_S, GRACE_S = 1000, 3000, 30
SHIFT = """
update sessions set created_at = created_at - $1::interval, rotated_at = rotated_at - $1::interval,
    expires_at = expires_at - $1::interval, last_seen_at = last_seen_at - $1::interval"""


class World:
    """A loop, a database and a person, shared by all runs."""

    def __init__(self, dsn: str) -> None:
        self.runner = asyncio.Runner()
        self.database = self.run(Database.open(dsn))
        self.connection = self.run(asyncpg.connect(dsn))
        self.account: Account = self.run(register(self.database, "family@example.org"))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def close(self) -> None:
        self.run(self.connection.close())
        self.run(self.database.close())
        self.runner.close()


class FamilyMachine(RuleBasedStateMachine):
    """tokens: all that were ever given, the newest last. The rest is what must be true of the session."""

    world: ClassVar[World]

    @initialize()
    def sign_in(self) -> None:
        self.world.run(self.world.connection.execute("delete from sessions"))
        self.sessions = Sessions(self.world.database, ttl_s=IDLE_S, max_ttl_s=MAX_S, grace_s=GRACE_S)
        place = (self.world.account.tenant_id, self.world.account.user_id, self.world.account.workspace_id)
        opened = self.world.run(self.sessions.open(*place, None, None))
        self.session_id = opened.session_id
        self.tokens = [opened.refresh_token]
        self.alive = True
        self.age = self.since_rotation = 0
        self.idle_left = IDLE_S

    @property
    def goes_on(self) -> bool:
        return self.alive and self.idle_left > 0 and self.age < MAX_S

    def rotate(self, token: str) -> Rotated | str:
        try:
            return self.world.run(self.sessions.rotate(token, None, None))
        except InvalidSession:
            return "over"
        except ReusedToken:
            return "reused"

    @rule()
    def rotate_the_newest(self) -> None:
        result = self.rotate(self.tokens[-1])
        if not self.goes_on:
            assert result == "over"
            return
        assert isinstance(result, Rotated)
        assert result.refresh_token not in self.tokens
        self.tokens.append(result.refresh_token)
        self.since_rotation = 0
        self.idle_left = min(IDLE_S, MAX_S - self.age)

    @precondition(lambda self: len(self.tokens) > 1)
    @rule()
    def rotate_the_previous(self) -> None:
        result = self.rotate(self.tokens[-2])
        if not self.goes_on:
            assert result == "over"
        elif self.since_rotation < GRACE_S:
            assert isinstance(result, Rotated)
            assert result.refresh_token == self.tokens[-1]
        else:
            assert result == "reused"
            self.alive = False

    @precondition(lambda self: len(self.tokens) > 2)
    @rule(data=st.data())
    def rotate_an_old_one(self, data: st.DataObject) -> None:
        result = self.rotate(data.draw(st.sampled_from(self.tokens[:-2])))
        assert result == ("reused" if self.goes_on else "over")
        self.alive = False

    @rule()
    def rotate_all_tabs_at_once(self) -> None:
        newest = self.tokens[-1]
        work = [self.sessions.rotate(newest, None, None) for _ in range(4)]
        results = self.world.run(together(work))
        if not self.goes_on:
            assert all(isinstance(result, InvalidSession) for result in results)
            return
        (token,) = {result.refresh_token for result in results if isinstance(result, Rotated)}
        assert all(isinstance(result, Rotated) for result in results)
        self.tokens.append(token)
        self.since_rotation = 0
        self.idle_left = min(IDLE_S, MAX_S - self.age)

    # never within a second of a border: real time passes too
    @rule(seconds=st.sampled_from([10, 40, 400, 970]))
    def time_passes(self, seconds: int) -> None:
        self.world.run(self.world.connection.execute(SHIFT, timedelta(seconds=seconds)))
        self.sessions = Sessions(self.world.database, ttl_s=IDLE_S, max_ttl_s=MAX_S, grace_s=GRACE_S)
        self.age += seconds
        self.since_rotation += seconds
        self.idle_left -= seconds

    @rule()
    def sign_out(self) -> None:
        self.world.run(self.sessions.revoke(self.world.account.tenant_id, self.session_id))
        self.alive = False

    @invariant()
    def what_is_said_of_the_session_is_true(self) -> None:
        if hasattr(self, "tokens"):
            active = self.world.run(self.sessions.is_active(self.world.account.tenant_id, self.session_id))
            assert active == self.goes_on
            found = self.world.run(self.sessions.find(self.tokens[-1]))
            assert (found is not None) == self.goes_on


async def together(work: list[Coroutine[Any, Any, Rotated]]) -> list[Rotated | BaseException]:
    return await asyncio.gather(*work, return_exceptions=True)


def test_every_order_of_events(dsn: str) -> None:
    world = World(dsn)
    FamilyMachine.world = world
    try:
        run_state_machine_as_test(
            FamilyMachine,
            settings=settings(
                max_examples=40,
                stateful_step_count=15,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        world.close()
