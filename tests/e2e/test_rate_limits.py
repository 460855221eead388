"""Rate limits by rules, of two GEKO processes that share a Redis; and LibreChat's limits on GEKO itself."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import numbers
from tests.e2e.people import Person, call, post, register
from tests.e2e.processes import Running, geko_environment, running
from tests.e2e.test_api_keys import make_key, send
from tests.e2e.test_failures import order
from tests.redis_server import RedisServer, redis_server

DAY = 86_400  # no test runs over the end of such a window, other than at midnight
CONFIG = f"""
version = 1

[[filters]]
name = "rate_limit"
[filters.options]
limit = 100000
[[filters.options.rules]]
name = "sign-in"
by = "ip"
limit = 6
window_s = {DAY}
routes = ["login"]

[[filters]]
name = "auth"
[[filters]]
name = "tenant"
[[filters]]
name = "workspace"

[[filters]]
name = "rate_limit_user"
[[filters.options.rules]]
name = "requests"
by = "user"
limit = 40
window_s = {DAY}
routes = ["api", "admin"]
[[filters.options.rules]]
name = "messages"
by = "workspace"
limit = 9
window_s = {DAY}
routes = ["chat"]
[[filters.options.rules]]
name = "key"
by = "key"
limit = 2
window_s = {DAY}
routes = ["admin"]
[[filters.options.rules]]
name = "answers"
by = "user"
count = "turns"
limit = 3

[[filters]]
name = "quota"
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def pair(
    e2e_dsn: str, stand_in: Running, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Running]]:
    """Two GEKO processes with one database and one Redis."""
    folder = tmp_path_factory.mktemp("pair")
    config = folder / "geko.toml"
    config.write_text(CONFIG)
    environment = geko_environment(
        e2e_dsn, stand_in.url, GEKO_REDIS_URL=redis.url, GEKO_SERVER_TRUSTED_PROXIES="127.0.0.0/8"
    )
    command = ["geko_proxy", "--config", str(config), "serve"]
    with (
        running(command, environment, folder / "one") as one,
        running(command, environment, folder / "two") as two,
    ):
        yield one, two


@pytest.fixture
async def clients(pair: tuple[Running, Running]) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """A client of each, all from an address of the test's own."""
    headers = {"X-Forwarded-For": f"2001:db8:{os.getpid() & 0xFFFF:x}:{next(numbers):x}::1"}
    async with (
        aiohttp.ClientSession(pair[0].url, headers=headers, cookie_jar=aiohttp.DummyCookieJar()) as one,
        aiohttp.ClientSession(pair[1].url, headers=headers, cookie_jar=aiohttp.DummyCookieJar()) as two,
    ):
        yield [one, two]


@pytest.fixture
async def people(clients: list[aiohttp.ClientSession]) -> list[Person]:
    """One person at both processes."""
    owner = await register(clients[0], f"rita{os.getpid()}n{next(numbers)}@example.org", "Rita")
    return [owner, replace(owner, client=clients[1])]


def remaining(headers: Any, name: str) -> int:
    """What RateLimit says is left of a rule."""
    found = re.search(rf'"{name}";r=(\d+)', ", ".join(headers.getall("RateLimit")))
    assert found, headers
    return int(found[1])


async def test_the_limit_of_a_person_is_exact_over_two_processes(people: list[Person]) -> None:
    path = "/api/categories"
    answers = await asyncio.gather(*(people[n % 2].call("GET", path) for n in range(60)))
    assert sorted(answer.status for answer in answers) == [200] * 40 + [429] * 20
    refused = next(answer for answer in answers if answer.status == 429)
    assert int(refused.headers["Retry-After"]) >= 1
    assert remaining(refused.headers, "requests") == 0
    assert {remaining(each.headers, "requests") for each in answers if each.status == 200} == set(range(40))
    policies = ", ".join(refused.headers.getall("RateLimit-Policy"))  # type: ignore[attr-defined]  # a CIMultiDict
    assert f'"requests";q=40;w={DAY}' in policies
    # other kinds have their own limits or none
    for free in ("/api/agents/chat/active", "/v1/auth/me", "/login"):
        assert (await people[0].call("GET", free)).status == 200


async def test_messages_of_a_workspace_and_what_does_not_count_as_one(people: list[Person]) -> None:
    first = await send(people[0], "one [[tokens=1 prompt=1 delay_ms=0]]")
    assert first.status == 200
    conversation = first.headers["X-Conversation-Id"]
    for each in people:
        for _ in range(6):  # reconnects and polls
            await each.call("GET", f"/api/agents/chat/stream/{conversation}")
            assert (await each.call("GET", f"/api/agents/chat/status/{conversation}")).status == 200
    statuses = [(await send(people[n % 2], "next [[tokens=1 prompt=1 delay_ms=0]]")).status for n in range(9)]
    assert statuses == [200] * 8 + [429]
    refused = await people[1].post_chat("LibreChat's page too")
    assert (refused.status, refused.json["type"]) == (429, "google_error")


async def test_running_answers_are_exact_over_two_processes(people: list[Person]) -> None:
    started = await asyncio.gather(
        *(people[n % 2].post_chat("wait [[tokens=40 prompt=1 delay_ms=40]]") for n in range(8))
    )
    assert sorted(answer.status for answer in started) == [200] * 3 + [429] * 5
    refused = next(answer for answer in started if answer.status == 429)
    assert "3 answers" in refused.json["info"]
    assert '"answers";q=3;qu="concurrent-requests"' in ", ".join(
        refused.headers.getall("RateLimit-Policy")  # type: ignore[attr-defined]  # a CIMultiDict
    )
    for number, answer in enumerate(started):
        if answer.status == 200:
            await people[number % 2].listen(answer.json["conversationId"])
    again = await people[1].post_chat("free again [[tokens=1 prompt=1]]")
    for _ in range(100):  # the end of a turn comes just before its place is free
        if again.status == 200:
            break
        await asyncio.sleep(0.02)
        again = await people[1].post_chat("free again [[tokens=1 prompt=1]]")
    assert again.status == 200


async def test_a_key_has_limits_of_its_own(people: list[Person]) -> None:
    program, _ = await make_key(people[0], "usage:read")
    path = f"/v1/workspaces/{people[0].workspace_id}/usage"
    both = [replace(program, client=each.client) for each in people]
    assert [(await both[n % 2].call("GET", path)).status for n in range(4)] == [200, 200, 429, 429]
    assert (await people[0].call("GET", path)).status == 200


async def test_sign_in_is_limited_by_network_over_two_processes(clients: list[aiohttp.ClientSession]) -> None:
    address = f"2001:db8:aaaa:{next(numbers):x}"
    answers = []
    for number in range(9):
        headers = {"X_Forwarded_For": f"{address}::{number:x}"}  # one /64
        body = {"email": f"nobody{number}@example.org", "password": "wrong wrong"}
        answers.append(await post(clients[number % 2], "/v1/auth/login", body, **headers))
    assert [answer.status for answer in answers] == [401] * 6 + [429] * 3
    assert answers[-1].json["error"]["details"] == {"rules": ["sign-in"]}


async def test_wrong_keys_are_slowed_by_the_limit_of_their_address(
    e2e_dsn: str, stand_in: Running, log_dir: Path
) -> None:
    environment = geko_environment(e2e_dsn, stand_in.url, GEKO_FILTER_RATE_LIMIT_LIMIT="5")
    with running(["geko_proxy", "serve"], environment, log_dir / "log") as server:
        async with aiohttp.ClientSession(server.url) as client:
            headers = {"Authorization": "Bearer gk_" + "0" * 22 + "_" + "0" * 49}
            found = [(await call(client, "GET", "/v1/auth/me", headers=headers)).status for _ in range(12)]
    assert 429 in found
    assert found.count(401) <= 10  # two windows at the most


async def test_redis_away_and_back(
    e2e_dsn: str, stand_in: Running, log_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with redis_server(tmp_path_factory.mktemp("redis")) as own:
        environment = geko_environment(e2e_dsn, stand_in.url, GEKO_REDIS_URL=own.url)
        with running(["geko_proxy", "serve"], environment, log_dir / "log") as server:
            async with aiohttp.ClientSession(server.url) as client:
                assert (await call(client, "GET", "/v1/auth/me")).status == 401
                own.stop()
                for _ in range(5):
                    assert (await call(client, "GET", "/v1/auth/me")).status == 401
                own.start()
                counted = 0
                for _ in range(100):
                    answer = await call(client, "GET", "/v1/auth/me")
                    counted = remaining(answer.headers, "default")
                    if counted == 99_999:  # the new Redis knows of nobody yet
                        break
                    await asyncio.sleep(0.1)
                assert counted == 99_999
            assert server.log_text().count("limiting in this process") == 1


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (429, '{"message":"Too many accounts created"}', "REGISTER_MAX"),
        (403, '{"message":"Your account has been temporarily banned due to violations."}', "BAN_VIOLATIONS"),
    ],
)
async def test_librechats_limit_on_geko_is_a_503_and_no_storm(
    e2e_dsn: str, stand_in: Running, log_dir: Path, status: int, body: str, hint: str
) -> None:
    async with aiohttp.ClientSession(stand_in.url) as control:
        await control.post("/__standin__/clear")
        try:
            fault = {"kind": "status", "status": status, "body": body, "times": 1000}
            await order(stand_in, path="/api/auth/register", **fault)
            with running(
                ["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url), log_dir / "log"
            ) as server:
                async with aiohttp.ClientSession(server.url) as client:
                    email = f"limited{os.getpid()}n{next(numbers)}@example.org"
                    person = await register(client, email, "Lim")
                    answers = await asyncio.gather(*(person.call("GET", "/api/user") for _ in range(10)))
                    answers += [await person.call("GET", "/api/user") for _ in range(10)]
                assert {answer.status for answer in answers} == {503}
                assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
                log = server.log_text()
            async with control.get("/__standin__/received") as seen:
                received = await seen.json()
        finally:
            await control.post("/__standin__/clear")
    registrations = [each for each in received if each["path"] == "/api/auth/register"]
    assert len(registrations) == 1
    assert hint in log
    assert "docs/librechat.md" in log


async def test_a_ban_on_a_chat_message_is_a_503(alice: Person, geko: Running, stand_in: Running) -> None:
    ban = (
        'event: message\ndata: {"created":true}\n\nevent: error\ndata: {"text":"{\\"type\\":\\"ban\\"}"}\n\n'
    )
    async with aiohttp.ClientSession(stand_in.url) as control:
        try:
            await order(
                stand_in, path="/api/agents/chat*", method="POST", kind="status", status=200, body=ban
            )
            answer = await send(alice, "hello")
        finally:
            await control.post("/__standin__/clear")
    assert (answer.status, answer.json["error"]["code"]) == (503, "upstream_limited")
    assert int(answer.headers["Retry-After"]) > 0
    assert "BAN_VIOLATIONS" in geko.log_text()
    assert (await alice.usage())["used"] == 0
