"""Limits of workspaces."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4
from zoneinfo import available_timezones

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.limits import (
    Actor,
    HoldCache,
    Limit,
    LimitScope,
    LimitStore,
    Unit,
    hold_of,
    holds_of,
)
from geko_proxy.metering.windows import Period, window_of
from geko_proxy.storage.database import Database
from geko_proxy.workspaces.config import matches

if TYPE_CHECKING:
    from tests.metering.conftest import Place


async def test_a_limit_is_kept_changed_and_lifted(
    database: Database, make_place: Callable[[int | None], Awaitable[Place]]
) -> None:
    place, limits = await make_place(500), LimitStore(database)
    assert await limits.get_own(place.tenant_id, place.workspace_id) == 500
    for limit in (0, 10**15, None):
        await limits.put_own(place.tenant_id, place.workspace_id, limit)
        assert await limits.get_own(place.tenant_id, place.workspace_id) == limit


async def test_a_workspace_without_a_row_has_no_limit_and_another_tenant_sees_none(
    database: Database, make_place: Callable[[int | None], Awaitable[Place]]
) -> None:
    place, limits = await make_place(500), LimitStore(database)
    assert await limits.get_own(place.tenant_id, uuid4()) is None
    assert await limits.get_own(uuid4(), place.workspace_id) is None


@pytest.mark.parametrize("limit", [-1, 10**18 + 1])
async def test_an_impossible_limit_is_a_value_error(database: Database, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        await LimitStore(database).put_own(uuid4(), uuid4(), limit)


WORKSPACE, USERS, KEYS = UUID(int=1), [UUID(int=n) for n in (2, 3)], [UUID(int=n) for n in (4, 5)]
SUBJECTS = {
    LimitScope.WORKSPACE: st.just(""),
    LimitScope.MEMBER: st.sampled_from(["*", *map(str, USERS)]),
    LimitScope.MODEL: st.sampled_from(["*/*", "A/*", "B/m/*", "*/x", "A*/m*x"]),
    LimitScope.KEY: st.sampled_from(list(map(str, KEYS))),
}
LIMITS = st.sampled_from(list(LimitScope)).flatmap(
    lambda scope: st.builds(
        Limit,
        st.uuids(),
        st.just(WORKSPACE),
        st.just(scope),
        SUBJECTS[scope],
        st.sampled_from(list(Period)),
        st.just(1),
        st.sampled_from(list(Unit)),
        st.none() | st.integers(0, 10**18),
    )
)
ACTORS = st.builds(
    Actor,
    st.just(WORKSPACE),
    st.sampled_from(USERS),
    st.none() | st.sampled_from(KEYS),
    st.sampled_from("AB"),
    st.sampled_from(["x", "m/x", "m"]),
)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
ZONES = st.sampled_from(sorted(available_timezones()))


@given(st.lists(LIMITS, max_size=12), ACTORS, TIMES, ZONES)
def test_a_turn_holds_one_window_of_each_limit_that_concerns_it(
    limits: list[Limit], actor: Actor, now: datetime, zone: str
) -> None:
    holds = holds_of(limits, actor, now, zone)
    assert holds[0].limit_id == WORKSPACE
    by_id = {hold.limit_id: hold for hold in holds}
    assert len(by_id) == len(holds)
    base = {WORKSPACE, actor.key_id} - {None}
    concerned = {limit.limit_id: limit for limit in limits if is_concerned(limit, actor)}
    assert set(by_id) == base | set(concerned)
    for limit_id, limit in concerned.items():
        hold = by_id[limit_id]
        assert (hold.unit, hold.scope) == (limit.unit, limit.scope)
        assert hold.window == window_of(limit.period, limit.start_day, now, zone)
        assert hold.window.start <= now < hold.window.end
        assert hold.subject == (str(actor.user_id) if limit.scope is LimitScope.MEMBER else "")
        assert hold == hold_of(limit, actor.user_id, now, zone)


def is_concerned(limit: Limit, actor: Actor) -> bool:
    return {
        LimitScope.WORKSPACE: True,
        LimitScope.MEMBER: limit.subject in ("*", str(actor.user_id)),
        LimitScope.MODEL: matches(limit.subject, actor.endpoint, actor.model),
        LimitScope.KEY: limit.subject == str(actor.key_id),
    }[limit.scope]


@given(st.lists(LIMITS, max_size=4), st.lists(st.tuples(ACTORS, TIMES, ZONES), max_size=6))
def test_what_is_remembered_is_the_same(
    limits: list[Limit], asked: list[tuple[Actor, datetime, str]]
) -> None:
    cache, changed = HoldCache(), [replace(limit, limit_id=uuid4()) for limit in limits]
    for given_limits in (limits, changed, limits):
        for actor, now, zone in asked * 2:
            assert cache.holds_of(given_limits, actor, now, zone) == holds_of(given_limits, actor, now, zone)


def test_the_row_of_a_base_limit_replaces_its_window() -> None:
    actor = Actor(WORKSPACE, USERS[0], KEYS[0], "A", "x")
    own = Limit(WORKSPACE, WORKSPACE, LimitScope.WORKSPACE, amount=5)
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert holds_of([own], actor, now, "UTC") == holds_of([], actor, now, "UTC")


async def test_postgresql_finds_the_models_that_a_glob_matches(dsn: str) -> None:
    """Both ways: the pattern that GEKO sends, and the one that PostgreSQL makes of the glob."""
    connection = await asyncpg.connect(dsn)
    pairs = [(e.replace("*", "c"), m.replace("*", "c"), f"{g}/{h}") for e, m, g, h in examples()]
    expected = [matches(glob, endpoint, model) for endpoint, model, glob in pairs]
    patterns = [hold_of_glob(glob) for _, _, glob in pairs]
    try:
        rows = await connection.fetch(
            "select model_is_like(e, m, p) as sent, model_is_like(e, m, like_pattern(g)) as made"
            " from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality as t (e, m, g, p, n)"
            " order by n",
            *(list(column) for column in zip(*pairs, strict=True)),
            patterns,
        )
    finally:
        await connection.close()
    wrong = [
        (*pair, want, *row)
        for pair, want, row in zip(pairs, expected, rows, strict=True)
        if set(row) != {want}
    ]
    assert wrong == []
    assert 200 < sum(expected) < len(expected) - 200


def hold_of_glob(glob: str) -> str:
    limit = Limit(uuid4(), WORKSPACE, LimitScope.MODEL, glob)
    return hold_of(limit, USERS[0], datetime(2026, 1, 1, tzinfo=UTC), "UTC").pattern


def examples() -> list[tuple[str, str, str, str]]:
    """Endpoints, models and both sides of globs, many of them alike so that some match."""
    chance, letters = random.Random(3), "ab%_\\*."

    def text(more: str = "") -> str:
        return "".join(chance.choice(letters + more) for _ in range(chance.randint(1, 4)))

    found = []
    for _ in range(4000):
        endpoint, model = text(), text("/")
        globs = [
            "".join("*" if chance.random() < 0.3 else letter for letter in side)
            if chance.random() < 0.7
            else text(more)
            for side, more in ((endpoint, ""), (model, "/"))
        ]
        found.append((endpoint, model, globs[0], globs[1]))
    return found
