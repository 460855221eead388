"""Alerts of quotas on running servers: from racing answers to a receiver that checks signatures."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.alerts.receiver import receiving
from tests.e2e.people import Person, invite, read_events, register
from tests.e2e.processes import ROOT, Running, geko_environment, running

HERE = {"GEKO_ALERTS_ALLOWED_NETWORKS": "127.0.0.0/8"}
DOCUMENT = ROOT / "docs" / "alerts.md"


@asynccontextmanager
async def person_at(server: Running, name: str = "alice") -> AsyncIterator[Person]:
    """A new owner, who uses this server."""
    async with aiohttp.ClientSession(server.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"{name}@example.org", name.title())


@pytest.fixture
async def office(
    dsn: str, stand_in: Running, log_dir: Path
) -> AsyncIterator[tuple[Person, Running, Running]]:
    """An owner at two instances of an own database; the other tests' GEKO would deliver, too."""
    environment = geko_environment(dsn, stand_in.url, **HERE)
    with (
        running(["geko_proxy", "serve"], environment, log_dir / "one") as one,
        running(["geko_proxy", "serve"], environment, log_dir / "two") as two,
    ):
        async with person_at(one) as alice:
            yield alice, one, two


async def add(person: Person, url: str, base: str = "", **fields: Any) -> dict[str, Any]:
    """A new webhook, with its secret."""
    path = f"{base or f'/v1/workspaces/{person.workspace_id}'}/webhooks"
    answer = await person.call("POST", path, {"url": url, **fields})
    assert answer.status == 201, answer
    found: dict[str, Any] = answer.json
    return found


def at(person: Person, webhook: dict[str, Any], rest: str = "") -> str:
    return f"/v1/workspaces/{person.workspace_id}/webhooks/{webhook['id']}{rest}"


async def test_twelve_racing_answers_make_exactly_three_alerts(
    office: tuple[Person, Running, Running],
) -> None:
    alice, one, two = office
    await alice.set_quota(600)
    async with (
        receiving(500) as receiver,
        aiohttp.ClientSession(two.url, cookie_jar=aiohttp.DummyCookieJar()) as other,
    ):
        made = await add(alice, receiver.url)
        places = [alice.client, other] * 6
        people = [
            Person(client, alice.email, alice.token, "", alice.workspace_id, alice.tenant_id)
            for client in places
        ]

        async def chat(person: Person) -> None:
            started = await person.post_chat("race [[tokens=300 prompt=5 delay_ms=1]]")
            assert started.status in (200, 429), started
            if started.status == 200:
                await person.listen(started.json["conversationId"])

        await asyncio.gather(*(chat(person) for person in people))
        assert (await alice.post_chat("one more")).status == 429
        got = await receiver.wait_for(4, seconds=30)  # one of them twice: it failed at first
        await asyncio.sleep(1)
        messages = {each.id: each.verified(made["secret"]) for each in got}
    assert len(got) == 4
    assert sorted(each["data"]["threshold"] for each in messages.values()) == [80, 95, 100]
    data = next(iter(messages.values()))["data"]
    assert (data["workspaceId"], data["amount"]) == (alice.workspace_id, 600)
    text = one.log_text() + two.log_text()
    assert len(re.findall(r'quota alert \{"event":"quota.threshold"', text)) == 3


async def test_an_instance_that_is_killed_while_it_sends_loses_nothing(
    dsn: str, stand_in: Running, log_dir: Path
) -> None:
    environment = geko_environment(dsn, stand_in.url, **HERE, GEKO_ALERTS_WEBHOOK_TIMEOUT_MS="1000")
    async with receiving("hang") as receiver:
        with running(["geko_proxy", "serve"], environment, log_dir / "one") as one:
            async with person_at(one) as alice:
                made = await add(alice, receiver.url)
                await alice.set_quota(100)
                assert (await alice.post_chat("too much " * 200)).status == 429
                await receiver.wait_for(1)
            os.kill(one.pid, signal.SIGKILL)
        with running(["geko_proxy", "serve"], environment, log_dir / "two"):
            got = await receiver.wait_for(4, seconds=30)
        messages = [each.verified(made["secret"]) for each in got]
    assert got[0].id in {each.id for each in got[1:]}
    assert {each["data"]["threshold"] for each in messages} == {80, 95, 100}


async def test_webhooks_are_set_up_tried_and_removed(office: tuple[Person, Running, Running]) -> None:
    alice, _, _ = office
    every = f"/v1/workspaces/{alice.workspace_id}/webhooks"
    async with receiving(200, 404) as receiver:
        made = await add(alice, receiver.url, description="to the team", enabled=False)
        assert made["secret"].startswith("whsec_")
        (shown,) = (await alice.call("GET", every)).json["webhooks"]
        assert shown == {name: value for name, value in made.items() if name != "secret"}
        tried = await alice.call("POST", at(alice, made, "/test"), {})
        assert tried.status == 202
        (got,) = await receiver.wait_for(1)
        assert got.id == tried.json["id"]
        assert got.verified(made["secret"])["type"] == "webhook.test"
        changed = await alice.call("PATCH", at(alice, made), {"enabled": True, "renewSecret": True})
        assert (changed.status, changed.json["enabled"]) == (200, True)
        assert changed.json["secret"] != made["secret"]
        assert (await alice.call("POST", at(alice, made, "/test"))).status == 202
        await receiver.wait_for(2)
        assert receiver.got[1].verified(changed.json["secret"])
        deliveries = await settled_deliveries(alice, made, 2)
        shown = [(each["state"], each["attempts"], each["status"]) for each in deliveries]
        assert shown == [("failed", 1, 404), ("delivered", 1, 200)]
        assert (await alice.call("DELETE", at(alice, made))).status == 204
        assert (await alice.call("GET", at(alice, made, "/deliveries"))).status == 404
        assert (await alice.call("GET", every)).json == {"webhooks": []}


async def settled_deliveries(person: Person, webhook: dict[str, Any], number: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for _ in range(200):
        answer = await person.call("GET", at(person, webhook, "/deliveries"))
        found = answer.json["deliveries"]
        if len(found) == number and all(each["state"] != "pending" for each in found):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(found)


async def test_too_many_tests_are_refused(office: tuple[Person, Running, Running]) -> None:
    alice, _, _ = office
    async with receiving() as receiver:
        made = await add(alice, receiver.url)
        statuses = [(await alice.call("POST", at(alice, made, "/test"))).status for _ in range(11)]
    assert statuses == [202] * 10 + [429]


async def test_a_tenants_webhook_hears_of_every_workspace(office: tuple[Person, Running, Running]) -> None:
    alice, _, _ = office
    other = await alice.call("POST", "/v1/workspaces", {"name": "Other", "tokenLimit": 10})
    async with receiving() as receiver:
        made = await add(alice, receiver.url, "/v1/tenant")
        assert (await alice.call("GET", f"/v1/workspaces/{alice.workspace_id}/webhooks")).json == {
            "webhooks": []
        }
        switched = await alice.call("POST", "/v1/auth/switch", {"workspaceId": other.json["id"]})
        there = Person(
            alice.client, alice.email, switched.json["accessToken"], "", other.json["id"], alice.tenant_id
        )
        assert (await there.post_chat("too much " * 200)).status == 429
        got = await receiver.wait_for(3)
        assert {each.verified(made["secret"])["data"]["workspaceId"] for each in got} == {other.json["id"]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "http://example.org/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url"),
        ({"url": "https://localhost/"}, "url"),
        ({"url": "https://[::ffff:127.0.0.1]/"}, "url"),
        ({"url": "https://u:p@example.org/"}, "url"),
        ({"url": 1}, "url"),
        ({"url": "https://1.1.1.1/", "events": ["quota.threshold", "nonsense"]}, "events"),
        ({"url": "https://1.1.1.1/", "events": []}, "events"),
        ({"url": "https://1.1.1.1/", "description": "a\u0000b"}, "description"),
        ({"url": "https://1.1.1.1/", "channel": "pigeon"}, "channel"),
        ({"url": "https://1.1.1.1/", "enabled": 1}, "enabled"),
        ({"url": "https://1.1.1.1/", "secret": "mine"}, "secret"),
        ({"channel": "mail", "url": "https://1.1.1.1/"}, "url"),
    ],
)
async def test_what_can_not_be_a_webhook_is_named(alice: Person, body: Any, field: str) -> None:
    """On a GEKO without networks of its own."""
    answer = await alice.call("POST", f"/v1/workspaces/{alice.workspace_id}/webhooks", body)
    assert answer.status == 400, answer
    assert list(answer.json["error"]["details"]) == [field]


async def test_mail_that_is_off_can_not_be_chosen(alice: Person) -> None:
    path = f"/v1/workspaces/{alice.workspace_id}/webhooks"
    answer = await alice.call("POST", path, {"channel": "mail"})
    assert (answer.status, answer.json["error"]["code"]) == (503, "mail_off")


async def test_another_workspaces_webhook_is_not_found(alice: Person, bob: Person) -> None:
    made = await add(alice, "https://1.1.1.1/")
    for method, rest, body in (
        ("PATCH", "", {"enabled": False}),
        ("DELETE", "", None),
        ("POST", "/test", {}),
        ("GET", "/deliveries", None),
    ):
        answer = await bob.call(method, at(bob, made, rest), body)
        assert (answer.status, answer.json["error"]["code"]) == (404, "webhook_not_found")
        answer = await alice.call(method, f"/v1/tenant/webhooks/{made['id']}{rest}", body)
        assert (answer.status, answer.json["error"]["code"]) == (404, "webhook_not_found")
    bad = await alice.call("PATCH", at(alice, made), {"url": "https://127.0.0.1/"})
    assert bad.status == 400


async def test_no_more_than_twenty(alice: Person) -> None:
    for _ in range(20):
        await add(alice, "https://1.1.1.1/", enabled=False)
    path = f"/v1/workspaces/{alice.workspace_id}/webhooks"
    answer = await alice.call("POST", path, {"url": "https://1.1.1.1/"})
    assert (answer.status, answer.json["error"]["code"]) == (409, "too_many_webhooks")


async def test_mails_go_to_owners_and_admins(dsn: str, stand_in: Running, log_dir: Path) -> None:
    environment = geko_environment(dsn, stand_in.url, GEKO_MAIL_TRANSPORT="folder")
    with running(["geko_proxy", "serve"], environment, log_dir / "log") as server:
        async with person_at(server) as alice:
            await invite(alice, "admin", "adam@example.org")
            await invite(alice, "member", "mia@example.org")
            path = f"/v1/workspaces/{alice.workspace_id}/webhooks"
            assert (await alice.call("POST", path, {"channel": "mail"})).status == 201
            await alice.set_quota(100)
            assert (await alice.post_chat("too much " * 200)).status == 429
            found: list[tuple[str, str]] = []
            for _ in range(200):
                found = re.findall(r"mail to (\S+): (.*?)\\n", server.log_text())
                if len(found) >= 2:
                    break
                await asyncio.sleep(0.05)
            await asyncio.sleep(1)
            found = re.findall(r"mail to (\S+): (.*?)\\n", server.log_text())
    assert len(found) == 2  # one each, though three thresholds were passed together
    assert {to for to, _ in found} == {"alice@example.org", "adam@example.org"}
    assert {subject for _, subject in found} == {"No room left in the monthly quota of workspace Default"}


async def send(person: Person, message: str, **fields: Any) -> tuple[Any, list[Any]]:
    headers = {"Authorization": f"Bearer {person.token}"}
    body = {"message": message, "model": "MockUsage/gpt-4o-mini", **fields}
    async with person.client.post("/v1/chat/send", json=body, headers=headers) as reply:
        assert reply.status == 200, await reply.text()
        return reply.headers, read_events(await reply.read())


async def test_programs_are_warned_in_headers_and_events(alice: Person) -> None:
    await alice.set_quota(1000)
    headers, events = await send(alice, "a [[tokens=300 prompt=300 delay_ms=0]]")
    assert headers["X-GEKO-Quota-Used-Percent"] == "0"
    assert 0 <= int(headers["X-GEKO-Quota-Reset"]) <= 31 * 86_400
    assert "quota" not in [each.name for each in events]
    _, events = await send(alice, "b [[tokens=100 prompt=110 delay_ms=0]]")
    names = [each.name for each in events]
    assert names[-2:] == ["quota", "final"]  # passed by this answer: said at its end
    assert names.count("quota") == 1
    warning = events[-2].json
    assert (warning["threshold"], warning["usedPercent"], warning["remaining"]) == (80, 81, 190)
    assert (warning["scope"], warning["unit"], warning["amount"]) == ("workspace", "tokens", 1000)
    headers, events = await send(alice, "c [[tokens=60 prompt=90 delay_ms=0]]")
    assert headers["X-GEKO-Quota-Used-Percent"] == "81"
    assert [each.json["threshold"] for each in events if each.name == "quota"] == [80, 95]
    assert events[0].name == "quota"  # known before: said at once


async def test_librechats_own_page_gets_nothing_added(alice: Person) -> None:
    await alice.set_quota(1000)
    await alice.chat("a [[tokens=450 prompt=450 delay_ms=0]]")
    started = await alice.post_chat("b [[tokens=5 prompt=5 delay_ms=0]]")
    assert not [name for name in started.headers if "quota" in name.lower()]
    async with alice.subscribed(started.json["conversationId"]) as reply:
        assert not [name for name in reply.headers if "quota" in name.lower()]
        events = read_events(await reply.read())
    assert {each.name for each in events} <= {"message", ""}


async def test_the_receiver_in_the_document_works(
    office: tuple[Person, Running, Running], log_dir: Path
) -> None:
    alice, _, _ = office
    program = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]
    assert len([line for line in program.splitlines() if line.strip()]) <= 15
    (log_dir / "receiver.py").write_text(program)
    await alice.set_quota(100)
    lines: list[str] = []
    with (log_dir / "out").open("wb") as out:
        # the secret is only known when the address is
        port = free_port()
        made = await add(alice, f"http://127.0.0.1:{port}/")
        process = subprocess.Popen(
            [sys.executable, "-u", log_dir / "receiver.py"],
            stdout=out,
            stderr=out,
            env={"WEBHOOK_SECRET": made["secret"], "PORT": str(port)},
        )
    try:
        await listening(port)
        async with aiohttp.ClientSession() as client:
            forged = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
            async with client.post(made["url"], data=b"{}", headers=forged) as reply:
                assert reply.status == 400
        assert (await alice.post_chat("too much " * 200)).status == 429
        for _ in range(200):
            lines = (log_dir / "out").read_text().splitlines()
            if len([line for line in lines if "workspace" in line]) == 3:
                break
            await asyncio.sleep(0.05)
        assert [line for line in lines if "100 %" in line], lines
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def listening(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise AssertionError("the receiver does not listen")
