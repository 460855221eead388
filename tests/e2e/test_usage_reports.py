"""Reports, the ledger, live usage and the balance on LibreChat's page, over sockets."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest

from geko_proxy.sse import SseParser
from tests.e2e.people import Person, call, invite


class Live:
    """An open stream of usage."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self.reply = reply
        self._parser = SseParser()
        self._events: list[Any] = []

    async def next(self) -> Any:
        """The next event with data: its name and data; None at the end."""
        while not self._events:
            chunk = await self.reply.content.readany()
            if not chunk:
                return None
            self._events += [event for event in self._parser.feed(chunk) if event.data]
        return self._events.pop(0)

    async def end(self) -> str:
        """Why the stream ends."""
        last = None
        while (event := await self.next()) is not None:
            last = event
        assert last is not None
        assert last.name == "end"
        return str(last.json["code"])

    async def until(self, **wanted: Any) -> Any:
        """The data of the first event in which these fields have these values."""
        while (event := await self.next()) is not None:
            if all(event.json.get(name) == value for name, value in wanted.items()):
                return event.json
        raise AssertionError("the stream ended")


@asynccontextmanager
async def live(person: Person, **headers: str) -> AsyncIterator[Live]:
    sent = {"Authorization": f"Bearer {person.token}", **headers}
    async with person.client.get("/v1/usage/stream", headers=sent) as reply:
        assert reply.status == 200, await reply.text()
        yield Live(reply)


async def report(person: Person, query: str = "") -> Any:
    answer = await person.call("GET", f"/v1/workspaces/{person.workspace_id}/usage?{query}")
    assert answer.status == 200, answer
    return answer.json


async def test_a_report_tells_who_used_what_and_what_is_left(alice: Person) -> None:
    member = await invite(alice, "member", f"m{uuid.uuid4().hex[:8]}@example.org")
    await alice.set_quota(1000)
    await alice.chat("one [[tokens=12 prompt=40 cached=10 reasoning=3]]")
    await member.chat("two [[tokens=8 prompt=10]]")
    found = await report(alice, "by=member,model,day")
    used = found["used"]
    assert used == found["totals"]["tokens"] == sum(row["tokens"] for row in found["rows"])
    assert {row["email"] for row in found["rows"]} == {alice.email, member.email}
    assert (found["totals"]["turns"], found["totals"]["cachedTokens"]) == (2, 10)
    (limit,) = found["limits"]
    assert (limit["scope"], limit["used"], limit["remaining"]) == ("workspace", used, 1000 - used)
    assert limit["resetsAt"] == found["window"]["endsAt"]
    assert found["projection"] is None  # nothing can be said after one day
    own = await report(member, "by=member")
    assert [row["email"] for row in own["rows"]] == [member.email]
    assert own["totals"] == found["totals"]
    tenant = await alice.call("GET", "/v1/usage?by=workspace,member")
    assert sum(row["tokens"] for row in tenant.json["rows"]) == used
    assert (await member.call("GET", "/v1/usage")).status == 403


async def test_the_ledger_page_by_page_and_as_csv(alice: Person) -> None:
    member = await invite(alice, "member", f"m{uuid.uuid4().hex[:8]}@example.org")
    for _ in range(3):
        await alice.chat("x [[tokens=2 prompt=5]]")
    await member.chat("y [[tokens=1 prompt=5]]")
    path = f"/v1/workspaces/{alice.workspace_id}/usage/events"
    seen, cursor = [], ""
    while True:
        page = await alice.call("GET", f"{path}?limit=3{cursor}")
        assert page.status == 200, page
        seen += page.json["events"]
        if page.json["nextCursor"] is None:
            break
        cursor = f"&cursor={page.json['nextCursor']}"
    assert [event["tokens"] for event in seen] == [6, 7, 7, 7]
    assert len({event["turnId"] for event in seen}) == 4
    assert seen == sorted(seen, key=lambda event: event["occurredAt"], reverse=True)
    text = await alice.call("GET", f"{path}?format=csv")
    assert text.headers["Content-Disposition"].startswith('attachment; filename="usage-events-')
    rows = list(csv.DictReader(io.StringIO(text.raw.decode(), newline="")))
    assert [row["turnId"] for row in rows] == [event["turnId"] for event in seen]
    assert [row["occurredAt"] for row in rows] == [event["occurredAt"] for event in seen]
    own = await member.call("GET", path)
    assert [event["tokens"] for event in own.json["events"]] == [6]
    others = await member.call("GET", f"{path}?userId={seen[-1]['userId']}")
    assert (others.status, others.json["error"]["code"]) == (403, "forbidden")
    wrong = await alice.call("GET", f"{path}?limit=0&cursor=%F0&userId=me&month=2026-1")
    assert set(wrong.json["error"]["details"]) == {"month"}
    wrong = await alice.call("GET", f"{path}?limit=0&cursor=%F0&userId=me")
    assert set(wrong.json["error"]["details"]) == {"limit", "cursor", "userId"}


async def test_live_usage_while_an_answer_runs(alice: Person) -> None:
    await alice.set_quota(5000)
    async with live(alice) as stream:
        reply = stream.reply
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        assert (reply.headers["X-Accel-Buffering"], reply.headers["Cache-Control"]) == (
            "no",
            "no-cache, no-transform",
        )
        first = await stream.until(used=0, runningTurns=0)
        assert (first["limit"], first["remaining"], first["limits"][0]["remaining"]) == (5000, 5000, 5000)
        conversation = await alice.start("go [[tokens=60 prompt=20 delay_ms=40]]")
        running = await stream.until(runningTurns=1)
        assert running["leased"] > 0
        assert running["remaining"] == 5000 - running["leased"] - running["used"]
        await alice.listen(conversation)
        after = await stream.until(used=80, runningTurns=0, leased=0)
        assert after["remaining"] == 4920


async def test_a_stream_goes_on_after_the_event_that_was_seen_last(alice: Person) -> None:
    async with live(alice) as stream:
        seen = re.search(rb"^id: (\w+)$", (await stream.next()).raw, re.MULTILINE)
        assert seen
    async with live(alice, **{"Last-Event-ID": seen[1].decode()}) as again:
        await alice.set_quota(777)
        assert (await again.next()).json["limit"] == 777  # and not what is known already
    async with live(alice, **{"Last-Event-ID": "something else"}) as fresh:
        assert (await fresh.next()).json["limit"] == 777


async def test_a_stream_ends_with_the_membership_and_narrows_with_the_role(alice: Person) -> None:
    member = await invite(alice, "admin", f"m{uuid.uuid4().hex[:8]}@example.org")
    me = (await member.call("GET", "/v1/auth/me")).json["user"]["id"]
    path = f"/v1/workspaces/{alice.workspace_id}/members/{me}"
    async with live(member) as stream:
        await stream.next()
        assert (await alice.call("DELETE", path)).status == 204
        assert await stream.end() == "access_ended"
    answer = await member.call("GET", "/v1/usage/stream")
    assert (answer.status, answer.json["error"]["code"]) == (403, "not_a_member")


async def test_a_stream_ends_with_the_session_and_the_key(alice: Person) -> None:
    made = await alice.call("POST", "/v1/api-keys", {"name": "k", "scopes": ["usage:read"]})
    key = Person(alice.client, "", made.json["key"], "", alice.workspace_id, alice.tenant_id)
    async with live(key) as stream:
        await stream.next()
        assert (await alice.call("DELETE", f"/v1/api-keys/{made.json['id']}")).status == 204
        assert await stream.end() == "access_ended"
    async with live(alice) as stream:
        await stream.next()
        assert (await alice.call("POST", "/v1/auth/logout")).status == 204
        assert await stream.end() == "access_ended"


async def test_one_person_opens_ten_streams_at_most(alice: Person) -> None:
    headers = {"Authorization": f"Bearer {alice.token}"}
    replies = [await alice.client.get("/v1/usage/stream", headers=headers) for _ in range(10)]
    assert {reply.status for reply in replies} == {200}
    refused = await call(alice.client, "GET", "/v1/usage/stream", headers=headers)
    assert (refused.status, refused.json["error"]["code"]) == (429, "too_many_listeners")
    replies.pop().close()
    for _ in range(100):
        reply = await alice.client.get("/v1/usage/stream", headers=headers)
        replies.append(reply)
        if reply.status == 200:
            break
        await asyncio.sleep(0.05)
    assert replies[-1].status == 200
    for reply in replies:
        reply.close()


async def test_librechats_page_shows_what_is_left(alice: Person, e2e_dsn: str) -> None:
    await alice.set_quota(None)
    assert (await alice.call("GET", "/api/config")).json["balance"] == {"enabled": False}
    assert (await alice.call("GET", "/api/balance")).status == 204
    await alice.set_quota(900)
    assert (await alice.call("GET", "/api/config")).json["balance"] == {"enabled": True}
    await alice.chat("x [[tokens=20 prompt=30]]")
    found = (await alice.call("GET", "/api/balance")).json
    window = (await report(alice))["window"]
    assert found == {
        "tokenCredits": 850,
        "autoRefillEnabled": True,
        "lastRefill": window["startsAt"],
        "refillAmount": 900,
        "refillIntervalValue": 1,
        "refillIntervalUnit": "months",
    }
    database = await asyncpg.connect(e2e_dsn)
    await database.execute(
        "insert into quota_limits (tenant_id, limit_id, workspace_id, scope, subject, period, amount)"
        " values ($1, $2, $3, 'member', '*', 'day', 60)",
        uuid.UUID(alice.tenant_id),
        uuid.uuid4(),
        uuid.UUID(alice.workspace_id),
    )
    await database.close()
    for _ in range(100):  # heard by NOTIFY
        found = (await alice.call("GET", "/api/balance")).json
        if found["tokenCredits"] == 10:
            break
        await asyncio.sleep(0.02)
    assert (found["tokenCredits"], found["refillIntervalUnit"]) == (10, "days")


@pytest.mark.parametrize("path", ["usage", "usage/events"])
async def test_keys_need_the_scope(alice: Person, path: str) -> None:
    for scope, status in (("usage:read", 200), ("chat", 403)):
        made = await alice.call("POST", "/v1/api-keys", {"name": f"k{os.getpid()}", "scopes": [scope]})
        headers = {"Authorization": f"Bearer {made.json['key']}"}
        answer = await call(
            alice.client, "GET", f"/v1/workspaces/{alice.workspace_id}/{path}", headers=headers
        )
        assert answer.status == status
        assert (await call(alice.client, "GET", "/v1/usage", headers=headers)).status == 403
