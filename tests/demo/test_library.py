"""Shared links, files, agents, messages, small collections: who sees what, and that it is kept."""

from __future__ import annotations

import json
import time
from typing import Any

import aiohttp
import pytest

from geko_proxy.demo.librechat import StandIn
from geko_proxy.demo.librechat.tokens import sign
from tests.demo.comparison import BROWSER
from tests.demo.people import Person, named, sign_up


async def new_agent(person: Person, **fields: Any) -> Any:
    """An agent of this person."""
    body = {"name": "Helper", "provider": "MockUsage", "model": "gpt-4o", "tools": [], **fields}
    return (await person.call("POST", "/api/agents", body)).json


async def upload(person: Person, path: str, name: str, kind: str) -> Any:
    """Upload 20 bytes."""
    form = aiohttp.FormData()
    form.add_field("file", b"x" * 20, filename=name, content_type=kind)
    headers = {"Authorization": f"Bearer {person.token}", "User-Agent": BROWSER}
    async with person.client.post(person.lc.url + path, data=form, headers=headers) as reply:
        return await reply.json()


async def test_any_account_reads_a_shared_link(alice: Person, bob: Person, lc: StandIn) -> None:
    final = (await alice.chat("[[tokens=2]]"))[-1]
    conversation = final["conversation"]["conversationId"]
    share = (await alice.call("POST", f"/api/share/{conversation}", {})).json["shareId"]
    seen = (await bob.call("GET", f"/api/share/{share}")).json
    assert seen["messages"][1]["content"][0]["text"] == "the quick"
    assert conversation not in json.dumps(seen)
    assert (await bob.call("DELETE", f"/api/share/{share}")).status == 404
    assert (await bob.call("POST", f"/api/share/{conversation}", {})).status == 404
    assert (await alice.call("DELETE", f"/api/share/{share}")).json["success"]
    bob.token = "junk"
    assert (await bob.call("GET", f"/api/share/{share}")).status == 404


async def test_agents_belong_to_their_author(alice: Person, bob: Person) -> None:
    agent = await new_agent(alice, tools=["read_mcp_files"], edges=[])
    path = f"/api/agents/{agent['id']}"
    assert agent["mcpServerNames"] == ["files"]
    for method, where in (("GET", path), ("GET", f"{path}/expanded"), ("PATCH", path), ("DELETE", path)):
        refused = await bob.call(method, where, {} if method == "PATCH" else None)
        assert (refused.status, refused.json["error"]) == (403, "Forbidden")
    basic, whole = (await alice.call("GET", path)).json, (await alice.call("GET", f"{path}/expanded")).json
    assert ("tools" in basic, basic["model"], whole["tools"]) == (False, "gpt-4o", ["read_mcp_files"])
    chosen = {"endpoint": "agents", "agent_id": agent["id"]}
    assert (await bob.call("POST", "/api/agents/chat/agents", {"text": "hi", **chosen})).status == 403
    await alice.call("PUT", f"/api/permissions/agent/{agent['_id']}", {"public": True})
    found = await bob.chat("[[tokens=1]]", **chosen)
    assert found[-1]["responseMessage"]["sender"] == "Helper"
    assert [a["id"] for a in (await bob.call("GET", "/api/agents")).json["data"]] == [agent["id"]]


async def test_an_agents_own_model_counts_and_is_checked(alice: Person) -> None:
    agent = await new_agent(alice, model="gpt-4o-mini")
    chosen = {"endpoint": "agents", "agent_id": agent["id"], "model": "gpt-4o"}
    assert named(await alice.chat("[[tokens=1]]", **chosen), "on_token_usage")[0]["model"] == "gpt-4o-mini"
    await alice.call("PATCH", f"/api/agents/{agent['id']}", {"model": "gpt-9"})
    assert "illegal_model_request" in (await alice.chat("hi", **chosen))[0]["error"]
    plain = await alice.chat("[[tokens=1]]", agent_id=agent["id"])
    assert plain[-1]["responseMessage"]["model"] == "gpt-4o"


async def test_downloads_ask_for_the_owner_not_the_url(alice: Person, bob: Person) -> None:
    file = await upload(alice, "/api/files", "note.txt", "text/plain")
    path = f"/api/files/download/{bob.id}/{file['file_id']}"
    assert (await alice.call("GET", path)).raw == b"x" * 20
    assert (await bob.call("GET", path)).status == 403
    forbidden = {"files": [{"file_id": file["file_id"]}]}
    assert (await bob.call("DELETE", "/api/files", forbidden)).status == 403
    assert (await alice.call("DELETE", "/api/files", forbidden)).status == 200
    assert (await alice.call("GET", "/api/files")).json == []


async def test_secure_image_links_want_the_cookie(http: aiohttp.ClientSession) -> None:
    async with StandIn(jwt_refresh_secret="r", secure_image_links=True) as lc:
        alice, bob = await sign_up(lc, http, "alice"), await sign_up(lc, http, "bob")
        path = (await upload(alice, "/api/files/images", "a.png", "image/png"))["filepath"]
        expired = sign({"id": alice.id, "exp": time.time() - 1}, "r")
        cookies = {
            "": 401,
            alice.cookie: 200,
            f"refreshToken={sign({'id': alice.id}, 'r')}": 200,
            bob.cookie: 403,
            f"refreshToken={expired}": 403,
            f"refreshToken={sign({'id': alice.id}, 'other')}": 403,
        }
        assert {c: (await alice.call("GET", path, Cookie=c)).status for c in cookies} == cookies


async def test_conversations_can_be_changed_copied_and_cleared(alice: Person) -> None:
    final = (await alice.chat("[[tokens=2]]"))[-1]
    ids = {"conversationId": final["conversation"]["conversationId"]}
    assert (await alice.call("POST", "/api/convos/update", {"arg": {**ids, "title": "New"}})).json[
        "title"
    ] == "New"
    forked = await alice.call(
        "POST", "/api/convos/fork", {**ids, "messageId": final["requestMessage"]["messageId"]}
    )
    assert len(forked.json["messages"]) == 1
    copied = await alice.call("POST", "/api/convos/duplicate", ids)
    assert len(await alice.messages(copied.json["conversation"]["conversationId"])) == 2
    await alice.call("POST", "/api/convos/archive", {"arg": {**ids, "isArchived": True}})
    assert len((await alice.call("GET", "/api/convos")).json["conversations"]) == 2
    assert len((await alice.call("GET", "/api/convos?isArchived=true")).json["conversations"]) == 1
    first = (await alice.call("GET", "/api/convos?limit=1")).json
    rest = (await alice.call("GET", f"/api/convos?limit=1&cursor={first['nextCursor']}")).json
    assert rest["nextCursor"] is None
    assert (await alice.call("DELETE", "/api/convos/all")).json["deletedCount"] == 3


async def test_messages_are_as_true_as_their_user(alice: Person) -> None:
    final = (await alice.chat("[[tokens=2]]"))[-1]
    path = f"/api/messages/{final['conversation']['conversationId']}/{final['responseMessage']['messageId']}"
    edited = await alice.call("PUT", path, {"text": "mine", "index": 0})
    assert edited.json["content"][0]["text"] == "mine"
    assert (await alice.call("PUT", f"{path}/feedback", {"feedback": {"rating": "thumbsUp"}})).status == 200
    assert (await alice.call("GET", path)).json[0]["feedback"]["rating"] == "thumbsUp"
    assert (await alice.call("DELETE", path)).status == 204
    assert (await alice.call("GET", path)).status == 404
    assert (await alice.call("GET", "/api/messages?search=x")).status == 500


@pytest.mark.parametrize(
    ("save", "body", "read"),
    [
        ("/api/presets", {"title": "p"}, "/api/presets"),
        ("/api/tags", {"tag": "t"}, "/api/tags"),
        ("/api/projects", {"name": "p"}, "/api/projects"),
        ("/api/prompts", {"prompt": {"prompt": "x"}, "group": {"name": "g"}}, "/api/prompts/all"),
        ("/api/memories", {"key": "k", "value": "v"}, "/api/memories"),
        (
            "/api/user/settings/favorites",
            {"favorites": [{"model": "gpt-4o"}]},
            "/api/user/settings/favorites",
        ),
    ],
)
async def test_small_collections_are_per_user(
    alice: Person, bob: Person, save: str, body: Any, read: str
) -> None:
    empty = (await bob.call("GET", read)).json
    await alice.call("POST", save, body)
    assert (await alice.call("GET", read)).json != empty
    assert (await bob.call("GET", read)).json == empty


async def test_mcp_servers_as_configured(bob: Person) -> None:
    assert list((await bob.call("GET", "/api/mcp/servers")).json) == ["files"]
    tools = (await bob.call("GET", "/api/mcp/tools")).json["servers"]["files"]["tools"]
    assert [tool["pluginKey"] for tool in tools] == ["read_mcp_files", "write_mcp_files"]
    assert list((await bob.call("GET", "/api/mcp/connection/status")).json["connectionStatus"]) == ["files"]
    assert (await bob.call("GET", "/api/mcp/connection/status/other")).status == 404
