"""Sessions over two running instances: parallel tabs, lists, and an end that every instance hears of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from geko_proxy.accounts.registration import Registration
from geko_proxy.storage.database import Database
from geko_proxy.workspaces.roles import Role
from tests.e2e.people import PASSWORD, Person, call, login, post
from tests.e2e.processes import Running, geko_environment, running

ME = "/v1/auth/me"
SESSIONS = "/v1/auth/sessions"
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.fixture(scope="module")
def other(e2e_dsn: str, stand_in: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A second instance."""
    log = tmp_path_factory.mktemp("other") / "log"
    with running(["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url), log) as server:
        yield server


@pytest.fixture
async def elsewhere(other: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(other.url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


async def status_at(client: aiohttp.ClientSession, token: str) -> int:
    return (await call(client, "GET", ME, headers={"Authorization": f"Bearer {token}"})).status


async def until_over(client: aiohttp.ClientSession, token: str) -> None:
    async with asyncio.timeout(20):
        while await status_at(client, token) != 401:
            await asyncio.sleep(0.02)


async def sign_in(client: aiohttp.ClientSession, person: Person) -> Person:
    return await login(client, person.email)


async def test_one_sees_and_ends_ones_sessions(
    alice: Person, bob: Person, elsewhere: aiohttp.ClientSession
) -> None:
    credentials = {"email": alice.email, "password": PASSWORD}
    phone = (await post(elsewhere, "/v1/auth/login", credentials, User_Agent=FIREFOX)).json["accessToken"]
    assert await status_at(alice.client, phone) == 200
    assert await status_at(elsewhere, phone) == 200
    listed = (await alice.call("GET", SESSIONS)).json["sessions"]
    assert [each["current"] for each in listed].count(True) == 1
    (found,) = [each for each in listed if each["device"] == "Firefox on Windows"]
    assert set(found) == {
        "id", "device", "userAgent", "ip", "workspaceId", "createdAt", "lastSeenAt", "expiresAt", "current",
    }  # fmt: skip
    assert (found["userAgent"], found["ip"], found["current"]) == (FIREFOX, "127.0.0.1", False)
    assert (await bob.call("DELETE", f"{SESSIONS}/{found['id']}")).status == 404
    for nonsense in ("nobody", "%00", "x" * 36):
        assert (await alice.call("DELETE", f"{SESSIONS}/{nonsense}")).status in (400, 404)
    assert (await alice.call("DELETE", f"{SESSIONS}/{found['id']}")).status == 204
    for client in (alice.client, elsewhere):
        await until_over(client, phone)
    assert (await alice.call("DELETE", f"{SESSIONS}/{found['id']}")).status == 404
    assert await status_at(elsewhere, alice.token) == 200


async def test_one_ends_all_other_sessions_at_once(alice: Person, elsewhere: aiohttp.ClientSession) -> None:
    others = [await sign_in(client, alice) for client in (alice.client, elsewhere, elsewhere)]
    assert (await alice.call("DELETE", SESSIONS)).json == {
        "revoked": len(others) + 1
    }  # registering signed in too
    for person in others:
        await until_over(elsewhere, person.token)
        await until_over(alice.client, person.token)
        answer = await post(elsewhere, "/v1/auth/refresh", {"refreshToken": person.refresh_token})
        assert answer.status == 401
    assert await status_at(elsewhere, alice.token) == 200
    assert len((await alice.call("GET", SESSIONS)).json["sessions"]) == 1


async def test_ones_own_session_can_be_ended_too_and_takes_the_cookie(alice: Person) -> None:
    (current,) = [each for each in (await alice.call("GET", SESSIONS)).json["sessions"] if each["current"]]
    answer = await alice.call("DELETE", f"{SESSIONS}/{current['id']}")
    assert answer.status == 204
    assert "geko_refresh=;" in answer.headers["Set-Cookie"]
    assert (await alice.call("GET", ME)).status == 401


async def test_twenty_tabs_that_refresh_at_once_over_two_instances(
    alice: Person, elsewhere: aiohttp.ClientSession
) -> None:
    body = {"refreshToken": alice.refresh_token}
    clients = (alice.client, elsewhere)
    answers = await asyncio.gather(*(post(clients[n % 2], "/v1/auth/refresh", body) for n in range(20)))
    assert {answer.status for answer in answers} == {200}
    (newest,) = {answer.json["refreshToken"] for answer in answers}
    for answer in answers:
        assert await status_at(elsewhere, answer.json["accessToken"]) == 200
    again = await post(elsewhere, "/v1/auth/refresh", {"refreshToken": newest})
    assert again.status == 200
    # the thief's copy of the first one is two behind: the family ends everywhere
    assert (await post(alice.client, "/v1/auth/refresh", body)).status == 401
    for client in clients:
        await until_over(client, again.json["accessToken"])


async def test_the_refresh_token_never_outlives_the_session(e2e_dsn: str, alice: Person) -> None:
    connection = await asyncpg.connect(e2e_dsn)
    await connection.execute(
        "update sessions set created_at = now() - interval '29 days 23 hours' where tenant_id = $1",
        alice.tenant_id,
    )
    answer = await post(alice.client, "/v1/auth/refresh", {"refreshToken": alice.refresh_token})
    assert 3000 < answer.json["refreshExpiresIn"] <= 3600
    await connection.execute(
        "update sessions set created_at = now() - interval '30 days' where tenant_id = $1", alice.tenant_id
    )
    await connection.close()
    over = await post(alice.client, "/v1/auth/refresh", {"refreshToken": answer.json["refreshToken"]})
    assert (over.status, over.json["error"]["code"]) == (401, "session_over")


async def test_admins_sign_members_out_of_their_workspace(
    e2e_dsn: str, alice: Person, bob: Person, elsewhere: aiohttp.ClientSession
) -> None:
    database = await Database.open(e2e_dsn)
    people: dict[Role, Person] = {}
    ids: dict[Role, str] = {}
    for role in (Role.ADMIN, Role.MEMBER):
        email = f"{role}-{alice.email}"
        added = await Registration(database).add_member(*place_of(alice), email, PASSWORD, "Somebody", role)
        people[role], ids[role] = await login(elsewhere, email), str(added.user_id)
    await database.close()
    admin, member = people[Role.ADMIN], people[Role.MEMBER]
    owner_id = (await alice.call("GET", ME)).json["user"]["id"]

    async def sign_out(who: Person, user_id: str) -> int:
        path = f"/v1/workspaces/{alice.workspace_id}/members/{user_id}/sessions"
        return (await who.call("DELETE", path)).status

    assert await sign_out(member, ids[Role.ADMIN]) == 403
    assert await sign_out(bob, ids[Role.MEMBER]) == 404
    assert await sign_out(admin, owner_id) == 403
    assert await sign_out(admin, "nobody") == 404
    assert await sign_out(admin, (await bob.call("GET", ME)).json["user"]["id"]) == 404
    assert await status_at(alice.client, member.token) == 200
    assert await sign_out(admin, ids[Role.MEMBER]) == 200
    for client in (alice.client, elsewhere):
        await until_over(client, member.token)
    assert await status_at(elsewhere, admin.token) == 200
    assert await sign_out(alice, ids[Role.ADMIN]) == 200
    await until_over(elsewhere, admin.token)
    connection = await asyncpg.connect(e2e_dsn)
    actions = await connection.fetch("select action from audit_log where tenant_id = $1", alice.tenant_id)
    await connection.close()
    assert [row["action"] for row in actions].count("member.sessions.revoke") == 2


def place_of(person: Person) -> tuple[UUID, UUID]:
    """The tenant and workspace of a person."""
    return UUID(person.tenant_id), UUID(person.workspace_id)
