"""API keys against running servers: what they open, what they don't, what they cost, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from geko_proxy.accounts.key_text import PATTERN, KeyText
from geko_proxy.accounts.registration import Registration
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.roles import Role
from tests.conftest import run
from tests.e2e.conftest import numbers
from tests.e2e.people import PASSWORD, Answer, Person, call, login, read_events
from tests.e2e.processes import Running, geko_environment, running
from tests.e2e.test_metering import settled


async def make_key(person: Person, *scopes: str, **terms: Any) -> tuple[Person, dict[str, Any]]:
    """Somebody who holds a new key of this person, and what the server says of it."""
    body = {"name": "ci", "scopes": list(scopes) or ["chat"], **terms}
    made = await person.call("POST", "/v1/api-keys", body)
    assert made.status == 201, made
    return replace(person, token=made.json["key"]), made.json


async def send(person: Person, text: str, **fields: Any) -> Answer:
    body = {"message": text, "model": "MockUsage/gpt-4o-mini", "stream": False, **fields}
    return await person.call("POST", "/v1/chat/send", body)


@pytest.fixture
async def second(e2e_dsn: str, stand_in: Running, log_dir: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Another instance of the same GEKO."""
    environment = geko_environment(e2e_dsn, stand_in.url)
    with running(["geko_proxy", "serve"], environment, log_dir / "second") as server:
        async with aiohttp.ClientSession(server.url, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield session


async def refused_within_a_second(person: Person, *instances: aiohttp.ClientSession) -> set[str]:
    """With which codes a key is refused on every instance."""
    codes = set()
    for instance in instances:
        for _ in range(100):
            answer = await replace(person, client=instance).call("GET", "/v1/auth/me")
            if answer.status != 200:
                codes.add(answer.json["error"]["code"])
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("the key still works after a second")
    return codes


async def test_a_key_chats_and_is_charged(alice: Person) -> None:
    program, made = await make_key(alice)
    assert PATTERN.fullmatch(made["key"])
    answer = await send(program, "hello [[tokens=8 prompt=20]]")
    assert answer.status == 200, answer
    events = await program.call(
        "POST", "/v1/chat/send", {"message": "s [[tokens=2 prompt=10]]", "model": "MockUsage/gpt-4o-mini"}
    )
    assert b"event: final" in events.raw
    await alice.chat("without a key [[tokens=5 prompt=5]]")
    usage = await settled(alice)
    assert usage["used"] == 50
    assert usage["byKey"] == [
        {
            "keyId": made["id"],
            "name": "ci",
            "userId": usage["byMember"][0]["userId"],
            "limit": None,
            "tokens": 40,
            "turns": 2,
        }
    ]
    shown = (await alice.call("GET", f"/v1/api-keys/{made['id']}")).json
    assert (shown["used"], shown["leased"]) == (40, 0)
    assert "key" not in shown
    assert made["key"] not in str((await alice.call("GET", "/v1/api-keys")).json)


async def test_who_i_am_with_a_key(alice: Person) -> None:
    program, _ = await make_key(alice, "usage:read")
    me = (await program.call("GET", "/v1/auth/me")).json
    assert me["user"]["email"] == alice.email
    assert me["workspace"]["id"] == alice.workspace_id


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/user"),
        ("GET", "/api/convos"),
        ("GET", "/api/models"),
        ("POST", "/api/agents/chat"),
        ("GET", "/api/agents/chat/active"),
        ("GET", "/api/agents/v1/models"),
        ("GET", "/api/balance"),
        ("GET", "/api/config"),
        ("GET", "/v1/api-keys"),
        ("POST", "/v1/api-keys"),
    ],
)
async def test_a_key_is_refused_where_it_does_not_belong(alice: Person, method: str, path: str) -> None:
    scopes = ("chat", "usage:read", "workspace:read", "workspace:write")
    program, made = await make_key(alice, *scopes)
    answer = await program.call(method, path, {} if method == "POST" else None)
    assert answer.status == 403
    assert "API key" in str(answer.json)
    path = f"/v1/api-keys/{made['id']}"
    for verb in ("GET", "PATCH", "DELETE"):
        assert (await program.call(verb, path, {"name": "x"})).status == 403


async def test_scopes_and_the_keys_own_workspace_are_the_limit(alice: Person) -> None:
    reader, _ = await make_key(alice, "usage:read")
    usage, config = (f"/v1/workspaces/{alice.workspace_id}/{what}" for what in ("usage", "config"))
    assert (await reader.call("GET", usage)).status == 200
    assert (await reader.call("GET", config)).json["error"]["code"] == "scope_missing"
    assert (await send(reader, "no")).json["error"]["code"] == "scope_missing"
    writer, _ = await make_key(alice, "workspace:write")
    assert (await writer.call("GET", config)).status == 200
    assert (await writer.call("PUT", config, {"defaultModel": None})).status == 200
    assert [each["id"] for each in (await writer.call("GET", "/v1/workspaces")).json["workspaces"]] == [
        alice.workspace_id
    ]


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"name": ""}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"models": ["gpt"]}, "models[0]"),
        ({"tokenLimit": -1}, "tokenLimit"),
        ({"expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"),
        ({"expiresAt": "2199-01-01T00:00:00"}, "expiresAt"),
        ({"secret": "x"}, "secret"),
    ],
)
async def test_bad_terms_name_the_field(alice: Person, terms: dict[str, Any], field: str) -> None:
    body = {"name": "ci", "scopes": ["chat"], **terms}
    answer = await alice.call("POST", "/v1/api-keys", body)
    assert answer.status == 400, answer
    assert field in answer.json["error"]["details"]


async def test_models_must_be_on_both_lists(alice: Person) -> None:
    program, _ = await make_key(alice, "chat", models=["MockUsage/gpt-4o*", "Mock/*"])
    assert (await send(program, "x [[tokens=1 prompt=1]]")).status == 200
    await alice.set_config(models=["MockUsage/gpt-4o-mini"])
    assert (await send(program, "x [[tokens=1 prompt=1]]")).status == 200
    for model in ("MockUsage/gpt-4o", "Mock/gpt-4o-mini"):  # not the workspace's
        refused = await send(program, "x", model=model)
        assert (refused.status, refused.json["error"]["code"]) == (403, "model_not_allowed")
    await alice.set_config(models=None)
    narrow, _ = await make_key(alice, "chat", models=["MockUsage/gpt-4o"])
    assert (await send(narrow, "x")).status == 403
    assert (await send(alice, "x [[tokens=1 prompt=1]]")).status == 200  # a session has the workspace's list


async def test_a_used_up_budget_cuts_and_refuses_the_key_alone(alice: Person) -> None:
    program, made = await make_key(alice, "chat", tokenLimit=300)
    cut = await send(program, "long [[tokens=2000 prompt=20 delay_ms=2]]")
    assert cut.json["finishReason"] == "key_budget_exceeded", cut
    assert "budget of API key ci" in str(cut.json)
    refused = await send(program, "one more")
    assert (refused.status, refused.json["error"]["code"]) == (429, "key_budget_exceeded")
    assert "budget of API key ci is used up" in refused.json["error"]["message"]
    assert refused.json["error"]["details"]["limit"] == 300
    assert int(refused.headers["Retry-After"]) > 0
    assert (await settled(alice))["used"] == 300
    assert (await send(alice, "free [[tokens=1 prompt=1]]")).status == 200
    raised = await alice.call("PATCH", f"/v1/api-keys/{made['id']}", {"tokenLimit": 1000})
    assert (raised.status, raised.json["tokenLimit"], raised.json["name"]) == (200, 1000, "ci")
    assert (await send(program, "on [[tokens=1 prompt=1]]")).status == 200


async def test_many_messages_of_two_instances_never_pass_the_budget(
    alice: Person, second: aiohttp.ClientSession
) -> None:
    program, made = await make_key(alice, "chat", tokenLimit=700)
    other = replace(program, client=second)
    # longer than the budget: an answer that ends by itself gives back what nobody may be left to take
    answers = await asyncio.gather(
        *(send((program, other)[n % 2], f"race {n} [[tokens=2000 prompt=5 delay_ms=1]]") for n in range(14))
    )
    assert {answer.status for answer in answers} == {200, 429}
    usage = await settled(alice)
    assert usage["used"] == usage["byKey"][0]["tokens"] == 700
    assert (await alice.call("GET", f"/v1/api-keys/{made['id']}")).json["used"] == 700


async def test_a_deleted_key_ends_on_every_instance(
    client: aiohttp.ClientSession, second: aiohttp.ClientSession, alice: Person
) -> None:
    program, made = await make_key(alice)
    for instance in (client, second):
        assert (await replace(program, client=instance).call("GET", "/v1/auth/me")).status == 200
    assert (await alice.call("DELETE", f"/v1/api-keys/{made['id']}")).status == 204
    assert await refused_within_a_second(program, client, second) == {"invalid_api_key"}
    assert (await alice.call("DELETE", f"/v1/api-keys/{made['id']}")).status == 404


async def colleague(alice: Person, dsn: str, role: Role) -> Person:
    """Another member of Alice's workspace."""
    email = f"colleague{os.getpid()}n{next(numbers)}@example.org"
    database = await Database.open(dsn)
    registration = Registration(database)
    await registration.add_member(
        UUID(alice.tenant_id), UUID(alice.workspace_id), email, PASSWORD, "Colleague", role
    )
    await database.close()
    return await login(alice.client, email)


async def test_a_key_never_does_more_than_its_users_role_now(
    client: aiohttp.ClientSession, second: aiohttp.ClientSession, alice: Person, e2e_dsn: str
) -> None:
    carl = await colleague(alice, e2e_dsn, Role.ADMIN)
    program, _ = await make_key(carl, "chat", "workspace:write", "usage:read")
    path = f"/v1/workspaces/{alice.workspace_id}/quota"
    instances = [replace(program, client=each) for each in (client, second)]
    for each in instances:
        assert (await each.call("PUT", path, {"tokenLimit": 9000})).status == 200
    me = UUID((await carl.call("GET", "/v1/auth/me")).json["user"]["id"])
    place = (UUID(alice.tenant_id), UUID(alice.workspace_id), me)
    database, heard = await Database.open(e2e_dsn), Invalidation(e2e_dsn)
    await heard.start()
    try:
        members = MemberStore(database, heard)
        await members.set_role(*place, Role.VIEWER)
        for each in instances:
            answer = await each.call("PUT", path, {"tokenLimit": 9000})
            for _ in range(100):
                if answer.status == 403:
                    break
                await asyncio.sleep(0.01)
                answer = await each.call("PUT", path, {"tokenLimit": 9000})
            assert answer.json["error"]["code"] == "forbidden"
            assert (await send(each, "a viewer does not chat")).json["error"]["code"] == "forbidden"
        beyond = await carl.call("POST", "/v1/api-keys", {"name": "x", "scopes": ["chat"]})
        assert (beyond.status, beyond.json["error"]["code"]) == (403, "scope_not_allowed")
        await members.remove(*place)
        assert await refused_within_a_second(program, client, second) == {"not_a_member"}
    finally:
        await heard.stop()
        await database.close()


async def test_a_disabled_users_key_ends_on_every_instance(
    client: aiohttp.ClientSession, second: aiohttp.ClientSession, alice: Person, e2e_dsn: str
) -> None:
    program, _ = await make_key(alice)
    for instance in (client, second):
        assert (await replace(program, client=instance).call("GET", "/v1/auth/me")).status == 200
    await run(e2e_dsn, f"update users set disabled_at = now() where email = '{alice.email}'")
    assert await refused_within_a_second(program, client, second) == {"invalid_api_key"}
    assert await refused_within_a_second(alice, client, second) == {"session_over"}


@pytest.mark.parametrize("end", ["key", "user", "scope"])
async def test_an_answer_ends_with_its_key_and_with_its_person(
    second: aiohttp.ClientSession, alice: Person, e2e_dsn: str, end: str
) -> None:
    """Ended on one instance while the other one streams; who is disabled loses answers without a key, too."""
    program, made = await make_key(alice)
    program = replace(program, client=second)
    slow = "go on [[tokens=400 delay_ms=25 prompt=5]]"
    headers = {"Authorization": f"Bearer {program.token}", "Content-Type": "application/json"}
    body = json.dumps({"message": slow, "model": "MockUsage/gpt-4o-mini"})
    plain = await replace(alice, client=second).start(slow)
    raw = b""
    async with second.post("/v1/chat/send", data=body, headers=headers) as reply:
        while b"event: token" not in raw:
            raw += await reply.content.readany()
        if end == "key":
            assert (await alice.call("DELETE", f"/v1/api-keys/{made['id']}")).status == 204
        elif end == "scope":
            change = await alice.call("PATCH", f"/v1/api-keys/{made['id']}", {"scopes": ["usage:read"]})
            assert change.status == 200
        else:
            await run(e2e_dsn, f"update users set disabled_at = now() where email = '{alice.email}'")
        async with asyncio.timeout(8):  # the whole answer takes ten seconds
            raw += await reply.content.read()
    (final,) = [event.json for event in read_events(raw) if event.name == "final"]
    assert final["finishReason"] == "access_ended"
    assert 0 < raw.count(b"event: token") < 400
    if end != "user":  # the one without the key goes on
        stopped = await alice.call("POST", "/api/agents/chat/abort", {"conversationId": plain})
        assert stopped.status == 200


async def test_admins_see_and_end_everybodys_keys(alice: Person, bob: Person, e2e_dsn: str) -> None:
    dora = await colleague(alice, e2e_dsn, Role.MEMBER)
    program, made = await make_key(dora, "chat")
    await send(program, "x [[tokens=2 prompt=3]]")
    path = f"/v1/workspaces/{alice.workspace_id}/api-keys"
    (shown,) = (await alice.call("GET", path)).json["apiKeys"]
    assert (shown["id"], shown["user"]["email"], shown["used"]) == (made["id"], dora.email, 5)
    assert (await alice.call("GET", f"/v1/api-keys/{made['id']}")).status == 404  # not her own
    assert (await alice.call("DELETE", f"/v1/api-keys/{made['id']}")).status == 404
    assert (await dora.call("GET", path)).status == 403
    assert (await bob.call("GET", path)).status == 404
    assert (await bob.call("DELETE", f"{path}/{made['id']}")).status == 404
    assert (await dora.call("DELETE", f"{path}/{made['id']}")).status == 403
    assert [row["keyId"] for row in (await dora.usage())["byKey"]] == [made["id"]]
    assert (await alice.call("DELETE", f"{path}/{made['id']}")).status == 204
    assert (await send(program, "gone")).status == 401


async def test_wrong_keys_look_alike(client: aiohttp.ClientSession, alice: Person) -> None:
    _, made = await make_key(alice)
    known = KeyText.decode(made["key"])
    wrong = [KeyText.new(known.key_id).encode(), KeyText.new(UUID(int=7)).encode(), made["key"][:-1] + "_"]
    found = []
    for text in wrong:
        headers = {"Authorization": f"Bearer {text}"}
        answer = await call(client, "GET", "/v1/auth/me", headers=headers)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        found.append((answer.status, answer.json["error"]["code"], answer.json["error"]["message"]))
    assert len(set(found)) == 1
    assert found[0][:2] == (401, "invalid_api_key")


async def test_the_last_use_is_written_and_no_key_is_in_the_log(
    e2e_dsn: str, stand_in: Running, log_dir: Path, alice: Person
) -> None:
    program, made = await make_key(alice)
    with running(["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url), log_dir / "log") as own:
        async with aiohttp.ClientSession(own.url) as client:
            for _ in range(3):
                assert (await replace(program, client=client).call("GET", "/v1/auth/me")).status == 200
    shown = (
        await alice.call("GET", f"/v1/api-keys/{made['id']}")
    ).json  # written at the latest when it stops
    assert shown["lastUsedAt"] >= shown["createdAt"]
    assert made["key"][3:] not in own.log_text()
