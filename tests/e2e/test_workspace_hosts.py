"""An address for each workspace: what is for one of them is worth nothing at another's."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.e2e.people import PASSWORD, Answer, Person, call, invite, post, register
from tests.e2e.processes import Running, geko_environment, running


@pytest.fixture(scope="module")
def server(e2e_dsn: str, stand_in: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("hosts") / "log"
    environ = geko_environment(
        e2e_dsn,
        stand_in.url,
        GEKO_SERVER_WORKSPACE_HOSTS="{workspace}.{tenant}.example.org",
        GEKO_SERVER_PUBLIC_URL="https://chat.example.org",
        GEKO_SERVER_TRUSTED_PROXIES="127.0.0.1/32",
    )
    with running(["geko_proxy", "serve"], environ, log) as started:
        yield started


@pytest.fixture
async def client(server: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


class Place:
    """A tenant with two workspaces that have addresses; the owner's token is for the first."""

    def __init__(self, owner: Person, slug: str, second_id: str) -> None:
        self.owner = owner
        self.first = f"first.{slug}.example.org"
        self.second = f"second.{slug}.example.org"
        self.second_id = second_id


@pytest.fixture
async def place(client: aiohttp.ClientSession) -> Place:
    owner = await register(client, f"host{os.getpid()}n{uuid4().hex[:8]}@example.org", "Olga")
    second_id = (await owner.call("POST", "/v1/workspaces", {"name": "Second"})).json["id"]
    slug = f"t{uuid4().hex[:10]}"
    assert (await owner.call("PUT", "/v1/tenant/address", {"slug": slug})).status == 200
    for workspace_id, name in ((owner.workspace_id, "first"), (second_id, "second")):
        named = await owner.call("PUT", f"/v1/workspaces/{workspace_id}/address", {"slug": name})
        assert named.json == {"slug": name, "host": f"{name}.{slug}.example.org"}
    return Place(owner, slug, second_id)


async def sign_in(place: Place, host: str, **more: Any) -> Answer:
    body = {"email": place.owner.email, "password": PASSWORD, **more}
    return await post(place.owner.client, "/v1/auth/login", body, Host=host)


async def test_a_token_for_another_workspace_is_refused(place: Place) -> None:
    owner = place.owner
    for host, status in (
        (place.first, 200),
        ("chat.example.org", 200),
        (place.second, 403),
        (f"{place.first}:3002", 200),
    ):
        for path in ("/api/convos", "/v1/auth/me", "/api/user"):
            answer = await owner.call("GET", path, Host=host)
            assert answer.status == status, (host, path)
    refused = await owner.post_chat("hi")
    assert refused.status == 200
    refused = await owner.call("POST", "/v1/chat/send", {"message": "hi"}, Host=place.second)
    assert refused.json["error"]["code"] == "other_workspace"
    cookie = {"Cookie": f"__Host-geko_refresh={owner.refresh_token}", "Host": place.second}
    assert (await call(owner.client, "GET", "/images/x/y.png", headers=cookie)).status == 403
    nowhere = place.first.replace("first", "third")
    assert (await owner.call("GET", "/api/convos", Host=nowhere)).status == 404
    assert (
        await owner.call("GET", "/api/convos", Host=f"evil.{place.first}")
    ).status == 200  # not of the pattern


async def test_the_address_decides_where_one_signs_in(place: Place) -> None:
    entered = await sign_in(place, place.second)
    assert (entered.status, entered.json["workspace"]["id"]) == (200, place.second_id)
    assert "Domain" not in entered.headers["Set-Cookie"]
    elsewhere = await sign_in(place, place.second, workspaceId=place.owner.workspace_id)
    assert (elsewhere.status, elsewhere.json["error"]["code"]) == (403, "other_workspace")
    # the cookie of one session, used at another workspace's address, acts in that one
    cookie = f"__Host-geko_refresh={entered.json['refreshToken']}"
    renewed = await post(place.owner.client, "/v1/auth/refresh", {}, Host=place.first, Cookie=cookie)
    assert (renewed.status, renewed.json["workspace"]["id"]) == (200, place.owner.workspace_id)
    body = {"email": "x@example.org", "password": PASSWORD, "name": "X"}
    refused = await post(place.owner.client, "/v1/auth/register", body, Host=place.second)
    assert refused.status == 403
    switched = await place.owner.call(
        "POST", "/v1/auth/switch", {"workspaceId": place.second_id}, Host=place.first
    )
    assert (switched.status, switched.json["error"]["code"]) == (403, "other_workspace")


async def test_who_is_no_member_does_not_get_in_by_an_address(
    place: Place, client: aiohttp.ClientSession
) -> None:
    member = await invite(place.owner, "member", f"m{os.getpid()}n{uuid4().hex[:8]}@example.org")
    stranger = await register(client, f"s{os.getpid()}n{uuid4().hex[:8]}@example.org", "Stan")
    for person in (member, stranger):
        body = {"email": person.email, "password": PASSWORD}
        refused = await post(client, "/v1/auth/login", body, Host=place.second)
        assert (refused.status, refused.json["error"]["code"]) == (403, "not_a_member")
        cookie = f"__Host-geko_refresh={person.refresh_token}"
        refused = await post(client, "/v1/auth/refresh", {}, Host=place.second, Cookie=cookie)
        assert (refused.status, refused.json["error"]["code"]) == (403, "not_a_member")
    made = await place.owner.call(
        "POST", f"/v1/workspaces/{place.owner.workspace_id}/invitations", {"role": "viewer"}
    )
    path = f"/v1/invitations/{made.json['link'].rpartition('/')[2]}/accept"
    email = f"n{os.getpid()}n{uuid4().hex[:8]}@example.org"
    new = {"email": email, "name": "New", "password": PASSWORD}
    assert (await post(client, path, new, Host=place.second)).status == 403
    assert (await post(client, path, new, Host=place.first)).status == 201


async def test_plain_http_goes_on_at_the_same_address(place: Place, client: aiohttp.ClientSession) -> None:
    for host, origin in (
        (place.first, f"https://{place.first}"),
        ("evil.example", "https://chat.example.org"),
    ):
        headers = {"Host": host, "X-Forwarded-Proto": "http"}
        answer = await call(client, "GET", "/login", headers=headers)
        assert (answer.status, answer.headers["Location"]) == (308, f"{origin}/login")


async def test_names_are_unique_and_checked(place: Place, client: aiohttp.ClientSession) -> None:
    rival = await register(client, f"r{os.getpid()}n{uuid4().hex[:8]}@example.org", "Rita")
    slug = place.first.split(".")[1]
    taken = await rival.call("PUT", "/v1/tenant/address", {"slug": slug})
    assert (taken.status, taken.json["error"]["code"]) == (409, "slug_taken")
    path = f"/v1/workspaces/{place.second_id}/address"
    assert (await place.owner.call("PUT", path, {"slug": "first"})).status == 409
    for bad in ("", "-a", "a-", "A", "a.b", "a_b", "é", "a" * 41, "www\n", 7):
        assert (await place.owner.call("PUT", path, {"slug": bad})).status == 400, bad
    assert (await rival.call("PUT", "/v1/tenant/address", {"slug": "www"})).status == 400
    assert (await place.owner.call("PUT", path, {"slug": None})).json == {"slug": None, "host": None}
    assert (await sign_in(place, place.second)).status == 404
