"""Sessions: rotation, parallel tabs, stolen tokens, and the end of a session on every instance."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from geko_proxy.accounts.refresh_tokens import RefreshToken
from geko_proxy.accounts.sessions import (
    InvalidSession,
    OpenedSession,
    ReusedToken,
    Rotated,
    Sessions,
)
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from tests.conftest import Account


@pytest.fixture
def sessions(database: Database, invalidation: Invalidation) -> Sessions:
    return Sessions(database, invalidation)


async def open_session(sessions: Sessions, account: Account) -> OpenedSession:
    return await sessions.open(
        account.tenant_id, account.user_id, account.workspace_id, "127.0.0.1", "Browser\n\0" * 500
    )


async def change(dsn: str, assignment: str, table: str = "sessions") -> None:
    """Changes every row as time or an administrator would."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"update {table} set {assignment}")
    await connection.close()


async def test_a_token_is_replaced_and_the_session_prolonged(
    sessions: Sessions, account: Account, dsn: str
) -> None:
    opened = await open_session(sessions, account)
    await change(dsn, "expires_at = expires_at - interval '1 day'")
    rotated = await sessions.rotate(opened.refresh_token, "127.0.0.2", None)
    assert rotated.refresh_token != opened.refresh_token
    assert (rotated.tenant_id, rotated.workspace_id, rotated.user_id) == account.place
    assert rotated.session_id == opened.session_id
    assert rotated.expires_at > opened.expires_at
    again = await sessions.rotate(rotated.refresh_token, None, None)
    assert again.refresh_token not in (opened.refresh_token, rotated.refresh_token)


async def test_no_token_is_stored(sessions: Sessions, account: Account, dsn: str) -> None:
    opened = await open_session(sessions, account)
    rotated = await sessions.rotate(opened.refresh_token, None, None)
    connection = await asyncpg.connect(dsn)
    dump = await connection.fetchval("select sessions::text from sessions")
    await connection.close()
    for token in (opened.refresh_token, rotated.refresh_token):
        assert token not in dump
        assert RefreshToken.decode(token).secret.hex() not in dump


async def test_parallel_tabs_get_the_same_new_token(sessions: Sessions, account: Account) -> None:
    opened = await open_session(sessions, account)
    answers = await asyncio.gather(*(sessions.rotate(opened.refresh_token, None, None) for _ in range(8)))
    assert len({answer.refresh_token for answer in answers}) == 1
    late = await sessions.rotate(opened.refresh_token, None, None)
    assert late.refresh_token == answers[0].refresh_token
    assert (await sessions.rotate(late.refresh_token, None, None)).refresh_token != late.refresh_token


async def test_an_older_token_ends_the_session(sessions: Sessions, account: Account) -> None:
    opened = await open_session(sessions, account)
    second = await sessions.rotate(opened.refresh_token, None, None)
    third = await sessions.rotate(second.refresh_token, None, None)
    with pytest.raises(ReusedToken) as caught:
        await sessions.rotate(opened.refresh_token, None, None)
    assert caught.value.session_id == opened.session_id
    for token in (opened, second, third):
        with pytest.raises(InvalidSession):
            await sessions.rotate(token.refresh_token, None, None)
    assert not await sessions.is_active(account.tenant_id, opened.session_id)


async def test_the_previous_token_is_good_for_the_grace_only(
    sessions: Sessions, account: Account, dsn: str
) -> None:
    opened = await open_session(sessions, account)
    second = await sessions.rotate(opened.refresh_token, None, None)
    await change(dsn, "rotated_at = rotated_at - interval '31 seconds'")
    with pytest.raises(ReusedToken):
        await sessions.rotate(opened.refresh_token, None, None)
    with pytest.raises(InvalidSession):
        await sessions.rotate(second.refresh_token, None, None)


async def test_reuse_is_noticed_in_every_race(database: Database, account: Account) -> None:
    """A thief with an old token and the owner with the newest one, on two instances, at the same moment."""
    instances = [Sessions(database), Sessions(database)]
    for _ in range(10):
        opened = await open_session(instances[0], account)
        second = await instances[0].rotate(opened.refresh_token, None, None)
        third = await instances[0].rotate(second.refresh_token, None, None)
        results = await asyncio.gather(
            instances[0].rotate(opened.refresh_token, None, None),
            instances[1].rotate(third.refresh_token, None, None),
            instances[1].rotate(opened.refresh_token, None, None),
            return_exceptions=True,
        )
        assert sum(isinstance(result, ReusedToken) for result in results) == 1
        assert not isinstance(results[0], Rotated)
        assert not isinstance(results[2], Rotated)
        alive = [third.refresh_token] + [r.refresh_token for r in results if isinstance(r, Rotated)]
        for token in alive:
            with pytest.raises(InvalidSession):
                await instances[0].rotate(token, None, None)


async def test_two_racing_rotations_beyond_the_grace_end_the_session(
    database: Database, account: Account
) -> None:
    """With no grace the slower of two rotations with one token is a reuse, whichever it is."""
    instances = [Sessions(database, grace_s=-1), Sessions(database, grace_s=-1)]
    for _ in range(10):
        opened = await open_session(instances[0], account)
        results = await asyncio.gather(
            *(instance.rotate(opened.refresh_token, None, None) for instance in instances),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == ["ReusedToken", "Rotated"]
        winner = next(result for result in results if isinstance(result, Rotated))
        with pytest.raises(InvalidSession):
            await instances[0].rotate(winner.refresh_token, None, None)


@pytest.mark.parametrize(
    ("assignment", "table"),
    [
        ("expires_at = now()", "sessions"),
        ("revoked_at = now()", "sessions"),
        ("disabled_at = now()", "users"),
    ],
)
async def test_what_is_over_cannot_be_renewed(
    sessions: Sessions, account: Account, dsn: str, assignment: str, table: str
) -> None:
    opened = await open_session(sessions, account)
    await change(dsn, assignment, table)
    with pytest.raises(InvalidSession):
        await sessions.rotate(opened.refresh_token, None, None)
    assert await sessions.find(opened.refresh_token) is None
    assert not await sessions.is_active(account.tenant_id, opened.session_id)


async def test_foreign_and_forged_tokens(sessions: Sessions, account: Account, stranger: Account) -> None:
    opened = await open_session(sessions, account)
    token = RefreshToken.decode(opened.refresh_token)
    for forged in (
        "",
        "nonsense",
        RefreshToken(stranger.tenant_id, token.session_id, token.secret).encode(),
        RefreshToken(account.tenant_id, uuid4(), token.secret).encode(),
    ):
        with pytest.raises(InvalidSession):
            await sessions.rotate(forged, None, None)
        assert await sessions.find(forged) is None
    assert await sessions.find(opened.refresh_token) is not None


async def test_is_found_by_its_token_without_rotating(
    database: Database, sessions: Sessions, account: Account
) -> None:
    opened = await open_session(sessions, account)
    found = await sessions.find(opened.refresh_token)
    assert found is not None
    assert (found.tenant_id, found.workspace_id, found.user_id) == account.place
    assert found.session_id == opened.session_id
    elsewhere = Sessions(database)  # hears of nothing, so that what `sessions` knows is old at once
    second = await elsewhere.rotate(opened.refresh_token, None, None)
    third = await elsewhere.rotate(second.refresh_token, None, None)
    assert await sessions.find(third.refresh_token) is not None
    assert await sessions.find(second.refresh_token) is not None
    assert await sessions.find(opened.refresh_token) is None


async def test_a_revoked_session_is_over_on_all_instances_at_once(
    database: Database, dsn: str, sessions: Sessions, account: Account
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    invalidation = Invalidation(dsn)
    await invalidation.start()
    other = Sessions(database, invalidation)
    invalidation.subscribe("session", heard.put_nowait)
    opened = await open_session(sessions, account)
    key = (account.tenant_id, opened.session_id)
    assert await sessions.is_active(*key)
    assert await other.is_active(*key)
    await sessions.revoke(*key)
    assert not await sessions.is_active(*key)
    assert await heard.get()
    assert not await other.is_active(*key)
    await invalidation.stop()


async def test_activity_is_cached(sessions: Sessions, account: Account, dsn: str) -> None:
    opened = await open_session(sessions, account)
    assert await sessions.is_active(account.tenant_id, opened.session_id)
    await change(dsn, "revoked_at = now()")  # behind the back of the store: nothing is announced
    assert await sessions.is_active(account.tenant_id, opened.session_id)


async def test_a_session_is_the_tenants_own(sessions: Sessions, account: Account, stranger: Account) -> None:
    opened = await open_session(sessions, account)
    assert not await sessions.is_active(stranger.tenant_id, opened.session_id)
    await sessions.revoke(stranger.tenant_id, opened.session_id)
    assert await sessions.is_active(account.tenant_id, opened.session_id)


async def test_the_whole_life_has_an_end_that_no_renewal_moves(
    database: Database, account: Account, dsn: str
) -> None:
    sessions = Sessions(database, ttl_s=7 * 86400, max_ttl_s=30 * 86400)
    opened = await open_session(sessions, account)
    await change(dsn, "created_at = now() - interval '28 days'")
    rotated = await sessions.rotate(opened.refresh_token, None, None)
    left = rotated.expires_at - datetime.now(UTC)
    assert timedelta(days=1, hours=23) < left <= timedelta(days=2)
    assert await sessions.find(rotated.refresh_token) is not None
    await change(dsn, "created_at = now() - interval '30 days'")
    with pytest.raises(InvalidSession):
        await sessions.rotate(rotated.refresh_token, None, None)
    assert await Sessions(database).find(rotated.refresh_token) is None


async def test_a_shorter_whole_life_counts_for_sessions_that_are_there(
    database: Database, account: Account, dsn: str
) -> None:
    opened = await open_session(Sessions(database), account)
    await change(dsn, "created_at = now() - interval '2 hours'")
    stricter = Sessions(database, max_ttl_s=3600)
    assert await stricter.find(opened.refresh_token) is None
    assert not await stricter.is_active(account.tenant_id, opened.session_id)
    assert (await open_session(stricter, account)).expires_at - datetime.now(UTC) <= timedelta(hours=1)


async def test_twenty_refreshes_at_once_leave_one_family(
    database: Database, account: Account, dsn: str
) -> None:
    instances = [Sessions(database), Sessions(database)]
    opened = await open_session(instances[0], account)
    answers = await asyncio.gather(
        *(instances[number % 2].rotate(opened.refresh_token, None, None) for number in range(20))
    )
    assert {answer.session_id for answer in answers} == {opened.session_id}
    (newest,) = {answer.refresh_token for answer in answers}
    connection = await asyncpg.connect(dsn)
    (row,) = await connection.fetch("select token_hash, previous_hash, revoked_at from sessions")
    await connection.close()
    expected = (RefreshToken.decode(newest).hash(), RefreshToken.decode(opened.refresh_token).hash(), None)
    assert tuple(row) == expected


async def test_sessions_are_ended_by_person_and_workspace(
    database: Database, account: Account, stranger: Account
) -> None:
    sessions = Sessions(database)
    mine = [await open_session(sessions, account) for _ in range(3)]
    theirs = await open_session(sessions, stranger)
    assert not await sessions.revoke_own(stranger.tenant_id, stranger.user_id, mine[0].session_id)
    assert not await sessions.revoke_own(account.tenant_id, uuid4(), mine[0].session_id)
    assert await sessions.revoke_own(account.tenant_id, account.user_id, mine[0].session_id)
    assert not await sessions.revoke_own(account.tenant_id, account.user_id, mine[0].session_id)
    assert await sessions.revoke_in_workspace(account.tenant_id, account.user_id, uuid4()) == 0
    place = (account.tenant_id, account.user_id, account.workspace_id)
    assert await sessions.revoke_in_workspace(*place) == 2
    for session in mine:
        assert not await sessions.is_active(account.tenant_id, session.session_id)
    assert await sessions.is_active(stranger.tenant_id, theirs.session_id)
