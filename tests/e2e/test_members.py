"""Members: roles that change, people who leave or are removed, on every instance at once; switching workspaces."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from geko_proxy.sse import SseParser
from tests.e2e.people import Answer, Person, call, deltas, invite, login, post
from tests.e2e.processes import Running, geko_environment, running

SEEN_WITHIN_S = 1.0  # the promise of the design, not a speed test


@pytest.fixture(scope="module")
def second_geko(
    e2e_dsn: str, stand_in: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Another instance on the same database."""
    log = tmp_path_factory.mktemp("geko2") / "log"
    with running(["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url), log) as server:
        yield server


@pytest.fixture
async def elsewhere(second_geko: Running) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the other instance."""
    async with aiohttp.ClientSession(second_geko.url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


def unique(name: str) -> str:
    return f"{name}{os.getpid()}n{uuid4().hex[:8]}@example.org"


def at(client: aiohttp.ClientSession, person: Person) -> Person:
    """The same person at another instance."""
    return Person(
        client, person.email, person.token, person.refresh_token, person.workspace_id, person.tenant_id
    )


async def user_id(person: Person) -> str:
    found: str = (await person.call("GET", "/v1/auth/me")).json["user"]["id"]
    return found


def members_path(person: Person) -> str:
    return f"/v1/workspaces/{person.workspace_id}/members"


async def seen(person: Person, method: str, path: str, wanted: int, body: Any = None) -> Answer:
    """The answer with the wanted status, which must come within a second of now."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while True:
        answer = await person.call(method, path, body)
        if answer.status == wanted or time.monotonic() > deadline:
            assert answer.status == wanted, answer
            return answer
        await asyncio.sleep(0.02)


async def test_members_are_listed_and_get_roles(alice: Person, e2e_dsn: str) -> None:
    carol = await invite(alice, "viewer", unique("carol"))
    path, carol_id = members_path(alice), await user_id(carol)
    listed = (await carol.call("GET", path)).json["members"]
    assert [(each["email"], each["role"]) for each in listed] == [
        (alice.email, "owner"),
        (carol.email, "viewer"),
    ]
    changed = await alice.call("PATCH", f"{path}/{carol_id}", {"role": "admin"})
    assert (changed.status, changed.json["role"]) == (200, "admin")
    assert (await carol.call("GET", "/v1/auth/me")).json["role"] == "admin"
    for body in ({"role": "emperor"}, {}, {"role": "admin", "more": 1}):
        assert (await alice.call("PATCH", f"{path}/{carol_id}", body)).status == 400
    for nobody in (uuid4(), "x"):
        assert (await alice.call("PATCH", f"{path}/{nobody}", {"role": "admin"})).status == 404
        assert (await alice.call("DELETE", f"{path}/{nobody}")).status == 404
    connection = await asyncpg.connect(e2e_dsn)
    try:
        found = await connection.fetch(
            "select details from audit_log where tenant_id = $1 and action = 'member.role'", alice.tenant_id
        )
    finally:
        await connection.close()
    assert len(found) == 1
    assert all(word in found[0]["details"] for word in (carol_id, "viewer", "admin"))


async def test_admins_can_not_touch_owners_nor_make_some(alice: Person) -> None:
    admin = await invite(alice, "admin", unique("admin"))
    other = await invite(alice, "member", unique("other"))
    path, admin_id, alice_id = members_path(alice), await user_id(admin), await user_id(alice)
    for method, target, body in (
        ("PATCH", alice_id, {"role": "member"}),
        ("DELETE", alice_id, None),
        ("PATCH", admin_id, {"role": "owner"}),
        ("PATCH", await user_id(other), {"role": "owner"}),
    ):
        refused = await admin.call(method, f"{path}/{target}", body)
        assert (refused.status, refused.json["error"]["code"]) == (403, "forbidden")
    assert (await admin.call("PATCH", f"{path}/{await user_id(other)}", {"role": "admin"})).status == 200
    assert (await alice.call("PATCH", f"{path}/{admin_id}", {"role": "owner"})).status == 200
    assert (await admin.call("PATCH", f"{path}/{alice_id}", {"role": "member"})).status == 200


async def test_the_last_owner_stays(alice: Person) -> None:
    path, alice_id = members_path(alice), await user_id(alice)
    for method, body in (("PATCH", {"role": "admin"}), ("DELETE", None)):
        refused = await alice.call(method, f"{path}/{alice_id}", body)
        assert (refused.status, refused.json["error"]["code"]) == (409, "last_owner")
    second = await invite(alice, "owner", unique("second"))
    second_id = await user_id(second)
    answers = await asyncio.gather(
        alice.call("DELETE", f"{path}/{second_id}"), second.call("DELETE", f"{path}/{alice_id}")
    )
    assert sorted(answer.status for answer in answers) in ([204, 403], [204, 404])
    left = next(who for who, answer in zip((alice, second), answers, strict=True) if answer.status == 204)
    assert [each["role"] for each in (await left.call("GET", path)).json["members"]] == ["owner"]


async def test_everybody_may_leave(alice: Person) -> None:
    viewer = await invite(alice, "viewer", unique("viewer"))
    path, viewer_id = members_path(alice), await user_id(viewer)
    assert (await viewer.call("DELETE", f"{path}/{await user_id(alice)}")).status == 403
    assert (await viewer.call("DELETE", f"{path}/{viewer_id}")).status == 204
    assert (await viewer.call("GET", path)).status == 403
    me = await viewer.call("GET", "/v1/auth/me")
    assert (me.json["workspace"], me.json["role"]) == (None, None)
    assert len((await alice.call("GET", path)).json["members"]) == 1


async def test_a_removed_member_is_refused_on_every_instance(
    alice: Person, elsewhere: aiohttp.ClientSession
) -> None:
    member = await invite(alice, "member", unique("member"))
    there = at(elsewhere, member)
    for person in (member, there):  # both instances know the role now
        assert (await person.call("GET", "/api/convos")).status == 200
    assert (await alice.call("DELETE", f"{members_path(alice)}/{await user_id(member)}")).status == 204
    assert (await member.call("GET", "/api/convos")).status == 403
    refused = await seen(there, "GET", "/api/convos", 403)
    assert "no longer a member" in refused.json["message"]
    assert (await there.post_chat("let me in")).status == 403
    assert (await there.call("GET", members_path(alice))).status == 403
    cookie = {"Cookie": f"geko_refresh={member.refresh_token}"}
    assert (await call(elsewhere, "GET", "/images/x/y.png", headers=cookie)).status == 403
    renewed = await post(elsewhere, "/v1/auth/refresh", {"refreshToken": member.refresh_token})
    assert (renewed.status, renewed.json["error"]["code"]) == (401, "session_over")


async def test_a_changed_role_counts_on_every_instance(
    alice: Person, elsewhere: aiohttp.ClientSession
) -> None:
    member = await invite(alice, "member", unique("member"))
    there, path = at(elsewhere, member), f"{members_path(alice)}/{await user_id(member)}"
    quota = f"/v1/workspaces/{alice.workspace_id}/quota"
    assert (await there.call("PUT", quota, {"tokenLimit": 5000})).status == 403
    assert (await alice.call("PATCH", path, {"role": "admin"})).status == 200
    await seen(there, "PUT", quota, 200, {"tokenLimit": 5000})
    assert (await alice.call("PATCH", path, {"role": "viewer"})).status == 200
    refused = await seen(there, "POST", "/api/tags", 403, {"tag": "x"})
    assert "viewer" in refused.json["message"]
    assert (await there.call("PUT", quota, {"tokenLimit": 6000})).status == 403


async def test_the_answer_of_a_removed_member_ends(alice: Person, elsewhere: aiohttp.ClientSession) -> None:
    """Removed on one instance while the other one streams: no event passes once that has heard of it."""
    member = at(elsewhere, await invite(alice, "member", unique("member")))
    conversation = await member.start("go on [[tokens=400 delay_ms=25 prompt=5]]")
    raw = b""
    async with member.subscribed(conversation) as reply:
        while b"on_message_delta" not in raw:
            raw += await reply.content.readany()
        assert (await alice.call("DELETE", f"{members_path(alice)}/{await user_id(member)}")).status == 204
        async with asyncio.timeout(8):  # the whole answer takes ten seconds
            raw += await reply.content.read()
    events = [event.json for event in SseParser().feed(raw)]
    assert events[-1]["final"] is True
    error = events[-1]["responseMessage"]["content"][-1]
    assert "no longer a member" in error["error"]
    assert 0 < len(deltas(events).split()) < 400
    usage = await alice.usage()
    assert usage["used"] > 0
    assert usage["leased"] == 0


async def test_switching_moves_the_session(
    alice: Person, client: aiohttp.ClientSession, elsewhere: aiohttp.ClientSession
) -> None:
    made = await alice.call("POST", "/v1/workspaces", {"name": "Second", "tokenLimit": 7000})
    assert (made.status, made.json["role"], made.json["current"]) == (201, "owner", False)
    second = made.json["id"]
    mine = await alice.start("only here [[tokens=3 prompt=5]]")
    await alice.listen(mine)
    answer = await alice.call("POST", "/v1/auth/switch", {"workspaceId": second})
    assert (answer.status, answer.json["workspace"]["name"]) == (200, "Second")
    assert "refreshToken" not in answer.json
    assert answer.headers["Clear-Site-Data"] == '"storage"'
    assert "Set-Cookie" not in answer.headers
    there = at(client, alice)
    there.token, there.workspace_id = answer.json["accessToken"], second
    assert (await there.call("GET", "/v1/auth/me")).json["workspace"]["id"] == second
    assert mine not in (await there.call("GET", "/api/convos")).raw.decode()
    assert (await there.usage())["limit"] == 7000
    renewed = await post(elsewhere, "/v1/auth/refresh", {"refreshToken": alice.refresh_token})
    assert (renewed.status, renewed.json["workspace"]["id"]) == (200, second)
    # the page of LibreChat renews by its cookie, and finds itself in the new workspace too
    cookie = f"geko_refresh={renewed.json['refreshToken']}"
    page = await call(client, "POST", "/api/auth/refresh", b"", {"Cookie": cookie})
    assert page.status == 200
    there.token = page.json["token"]
    assert (await there.call("GET", "/v1/auth/me")).json["workspace"]["id"] == second


async def test_only_ones_own_workspaces_can_be_switched_to(alice: Person, bob: Person) -> None:
    made = await alice.call("POST", "/v1/workspaces", {"name": "Private"})
    member = await invite(alice, "member", unique("member"))
    for person, target in ((member, made.json["id"]), (bob, alice.workspace_id), (alice, str(uuid4()))):
        refused = await person.call("POST", "/v1/auth/switch", {"workspaceId": target})
        assert (refused.status, refused.json["error"]["code"]) == (403, "not_a_member")
        assert "Clear-Site-Data" not in refused.headers
    assert (await member.call("POST", "/v1/workspaces", {"name": "Mine"})).status == 403
    for body in ({"name": ""}, {"name": " "}, {"name": "a\u0000b"}, {"name": "x", "tokenLimit": -1}, {}):
        assert (await alice.call("POST", "/v1/workspaces", body)).status == 400, body
    # a page of another site has the cookie at most, and that is not enough
    answer = await call(
        alice.client,
        "POST",
        "/v1/auth/switch",
        b'{"workspaceId":"%s"}' % made.json["id"].encode(),
        {"Cookie": f"geko_refresh={alice.refresh_token}", "Origin": "https://evil.example"},
    )
    assert answer.status == 401


async def test_who_was_removed_can_go_to_another_workspace(alice: Person) -> None:
    made = await alice.call("POST", "/v1/workspaces", {"name": "Second"})
    member = await invite(alice, "member", unique("member"))
    invited = await alice.call("POST", f"/v1/workspaces/{made.json['id']}/invitations", {"role": "viewer"})
    token = invited.json["link"].rpartition("/")[2]
    assert (await member.call("POST", f"/v1/invitations/{token}/accept")).status == 200
    assert (await alice.call("DELETE", f"{members_path(alice)}/{await user_id(member)}")).status == 204
    assert (await member.call("GET", "/api/convos")).status == 403
    answer = await member.call("POST", "/v1/auth/switch", {"workspaceId": made.json["id"]})
    assert (answer.status, answer.json["role"]) == (200, "viewer")
    back = await login(alice.client, member.email)
    assert back.workspace_id == made.json["id"]
