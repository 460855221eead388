"""Two tenants, two workspaces, two people: nothing of one is ever seen by the other."""

from __future__ import annotations

import aiohttp

from tests.e2e.people import Person

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000" "1f15c4890000000a49444154789c6300010000050001"
    "0d0a2db40000000049454e44ae426082"
)  # fmt: skip


async def upload(person: Person) -> dict[str, str]:
    form = aiohttp.FormData()
    form.add_field("file", PNG, filename="pic.png", content_type="image/png")
    for name, value in (("endpoint", "Mock"), ("file_id", "404a6a30-e7c8-4e83-babf-421e1aa92f09"), ("width", "1"),
                        ("height", "1"), ("version", "1")):  # fmt: skip
        form.add_field(name, value)
    headers = {"Authorization": f"Bearer {person.token}"}
    async with person.client.post("/api/files/images", data=form, headers=headers) as reply:
        assert reply.status == 200, await reply.text()
        found: dict[str, str] = await reply.json()
        return found


async def test_conversations_messages_and_streams(alice: Person, bob: Person) -> None:
    conversation = await alice.start("secret of alice [[tokens=30 delay_ms=10 prompt=5]]")
    assert (await bob.call("GET", f"/api/agents/chat/stream/{conversation}")).status == 404
    assert (await bob.call("GET", f"/api/agents/chat/status/{conversation}")).status in (200, 403)
    await alice.listen(conversation)
    assert conversation in (await alice.call("GET", "/api/convos")).raw.decode()
    for path in (
        "/api/convos",
        f"/api/convos/{conversation}",
        f"/api/messages/{conversation}",
        "/api/agents/chat/active",
    ):
        assert b"secret of alice" not in (await bob.call("GET", path)).raw
    assert (await bob.call("GET", f"/api/messages/{conversation}")).status == 404
    intruding = await bob.post_chat("let me in", conversationId=conversation)
    assert intruding.status >= 400 or b"error" in (await bob.call(
        "GET", f"/api/agents/chat/stream/{conversation}")).raw  # fmt: skip
    assert b"let me in" not in (await alice.call("GET", f"/api/messages/{conversation}")).raw


async def test_files_and_pictures(alice: Person, bob: Person, client: aiohttp.ClientSession) -> None:
    picture = await upload(alice)
    path = picture["filepath"]
    mine = await alice.call("GET", path)
    assert (mine.status, mine.headers["Content-Type"]) == (200, "image/png")
    assert mine.headers["Cache-Control"].startswith("private")
    assert (await bob.call("GET", path)).status in (403, 404)
    async with client.get(path) as anonymous:
        assert anonymous.status == 401
    cookie = {"Cookie": f"geko_refresh={alice.refresh_token}"}
    async with client.get(path, headers=cookie) as by_cookie:
        assert by_cookie.status == 200
    async with client.get(path, headers={"Cookie": f"geko_refresh={bob.refresh_token}"}) as foreign:
        assert foreign.status in (403, 404)
    assert picture["file_id"] in (await alice.call("GET", "/api/files")).raw.decode()
    assert picture["file_id"] not in (await bob.call("GET", "/api/files")).raw.decode()


async def test_shared_links_stay_in_their_tenant(alice: Person, bob: Person) -> None:
    conversation = await alice.start("to be shared [[tokens=3]]")
    await alice.listen(conversation)
    shared = await alice.call("POST", f"/api/share/{conversation}", {})
    assert shared.status == 200, shared
    share_id = shared.json["shareId"]
    assert b"to be shared" in (await alice.call("GET", f"/api/share/{share_id}")).raw
    refused = await bob.call("GET", f"/api/share/{share_id}")
    assert refused.status == 404
    assert b"to be shared" not in refused.raw


async def test_no_librechat_credentials_reach_a_client(alice: Person) -> None:
    answer = await alice.call("GET", "/api/user")
    assert "Set-Cookie" not in answer.headers
    assert answer.json["email"] == alice.email
    assert answer.json["name"] == "Alice"
    assert (
        await alice.call("GET", "/api/agents/chat/status/x", Cookie="token_provider=openid")
    ).status == 200
    for path in (
        "/api/api-keys",
        "/api/keys/x",
        "/api/admin/users",
        "/api/permissions/search-principals?q=a",
    ):
        assert (await alice.call("GET", path)).status == 404, path
    forged = await alice.call("POST", "/api/messages/x", {"text": "forged", "tokenCount": 1})
    assert forged.status == 404


async def test_a_librechat_token_is_worth_nothing_at_geko(alice: Person) -> None:
    import jwt

    from tests.e2e.processes import JWT_SECRET

    account = (await alice.call("GET", "/api/user")).json
    token = jwt.encode({"id": account["id"], "exp": 4_000_000_000}, JWT_SECRET, algorithm="HS256")
    assert (await alice.call("GET", "/api/user", Authorization=f"Bearer {token}")).status == 401
