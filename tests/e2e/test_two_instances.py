"""Two instances on one database: a browser may hit another one for each request of an answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest

from geko_proxy.peers.hop import HEADER, Hop, HopSigner
from geko_proxy.sse import SseParser
from tests.e2e.people import Person, call, deltas, login, register
from tests.e2e.processes import ENCRYPTION_SECRET, Running, geko_environment, running
from tests.e2e.test_failures import order

PROXIED = {"GEKO_SERVER_TRUSTED_PROXIES": "127.0.0.0/8"}
TEXT = "write [[tokens=40 prompt=7 delay_ms=20]]"
SLOW = "write [[tokens=600 prompt=7 delay_ms=50 word=river]]"


@pytest.fixture(scope="module")
def pair(
    e2e_dsn: str, stand_in: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Running]]:
    """Two instances behind a proxy that they trust."""
    folder = tmp_path_factory.mktemp("pair")
    environment = geko_environment(e2e_dsn, stand_in.url, **PROXIED)
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(running(["geko_proxy", "serve"], environment, folder / name)) for name in "ab"
        )
        yield first, second


@pytest.fixture
async def sessions(pair: tuple[Running, Running]) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """A client of each instance."""
    opened = [aiohttp.ClientSession(each.url, cookie_jar=aiohttp.DummyCookieJar()) for each in pair]
    yield opened
    for session in opened:
        await session.close()


@pytest.fixture
async def ann(sessions: list[aiohttp.ClientSession]) -> tuple[Person, Person]:
    """Somebody signed in, seen through each instance."""
    person = await register(sessions[0], f"ann{os.getpid()}n{uuid4().hex[:8]}@example.org", "Ann")
    return person, replace(person, client=sessions[1])


def words(events: list[Any]) -> int:
    return len(deltas(events).split())


async def settled(person: Person) -> dict[str, Any]:
    """The usage once nothing is leased any more."""
    deadline = time.monotonic() + 10
    while (usage := await person.usage())["leased"] and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return usage


async def produced(stand_in: Running, conversation: str) -> int:
    """Tokens that the provider made for a conversation."""
    async with aiohttp.ClientSession() as client, client.get(stand_in.url + "/__standin__/log") as reply:
        calls = await reply.json()
    return sum(each["usage"]["total_tokens"] for each in calls if each["conversation"] == conversation)


async def first_events(person: Person, conversation: str, number: int) -> list[Any]:
    """Listen, and leave after so many events."""
    events: list[Any] = []
    parser = SseParser()
    async with person.subscribed(conversation) as reply:
        assert reply.status == 200
        async for chunk in reply.content.iter_any():
            events += [event.json for event in parser.feed(chunk)]
            if len(events) >= number:
                break
    return events


async def test_five_listeners_at_both_instances_hear_every_word(ann: tuple[Person, Person]) -> None:
    here, there = ann
    conversation = await here.start(TEXT)

    async def late(person: Person, query: str = "") -> list[Any]:
        await asyncio.sleep(0.4)
        return await person.listen(conversation, query)

    heard = await asyncio.gather(
        here.listen(conversation),
        there.listen(conversation),
        there.listen(conversation),
        late(there),
        late(there, "?resume=true"),
    )
    for events in heard[:4]:
        assert events == heard[0]
    assert heard[4][0]["sync"] is True
    assert heard[4][1:] == heard[0][1:]  # all but `created`
    assert [words(events) for events in heard] == [40] * 5
    assert heard[0][-1]["final"] is True
    assert await there.listen(conversation) == heard[0]  # after the end
    usage = await settled(there)
    assert (usage["used"], usage["leased"]) == (47, 0)


async def test_leaving_one_instance_and_coming_back_at_the_other(ann: tuple[Person, Person]) -> None:
    here, there = ann
    conversation = await there.start(TEXT)
    left = await first_events(there, conversation, 5)
    events = await here.listen(conversation, "?resume=true")
    assert events[1:][: len(left) - 1] == left[1:]
    assert words(events) == 40
    assert events[-1]["final"] is True
    assert (await settled(here))["used"] == 47


async def test_status_active_and_a_second_message(ann: tuple[Person, Person]) -> None:
    here, there = ann
    conversation = await here.start("first [[tokens=2]]")
    await there.listen(conversation)
    await here.start(TEXT, conversationId=conversation)
    for person in ann:
        status = await person.call("GET", f"/api/agents/chat/status/{conversation}")
        assert (status.status, status.json["active"]) == (200, True)
        active = await person.call("GET", "/api/agents/chat/active")
        assert active.json["activeJobIds"] == [conversation]
        second = await person.post_chat("and this", conversationId=conversation)
        assert (second.status, second.json["type"]) == (409, "concurrent")
        body = {"message": "and this", "conversationId": conversation}
        sent = await person.call("POST", "/v1/chat/send", body)
        assert (sent.status, sent.json["error"]["code"]) == (409, "answer_running")
    assert words(await there.listen(conversation)) == 40
    events = await there.listen(await there.start("go on [[tokens=3]]", conversationId=conversation))
    assert words(events) == 3


async def test_the_older_answer_of_a_conversation_is_not_taken_for_the_one_that_runs_elsewhere(
    ann: tuple[Person, Person],
) -> None:
    here, there = ann
    conversation = await here.start("first [[tokens=2 word=one]]")
    await here.listen(conversation)
    await there.start("second [[tokens=30 word=two delay_ms=20]]", conversationId=conversation)
    events = await here.listen(conversation)  # this one keeps the first answer for a while
    assert set(deltas(events).split()) == {"two"}
    assert words(events) == 30
    assert set(deltas(await here.listen(conversation)).split()) == {"two"}
    assert set(deltas(await there.listen(conversation)).split()) == {"two"}


@pytest.mark.parametrize("named", ["streamId", "conversationId", "abortKey", "new"])
async def test_stop_at_the_other_instance(ann: tuple[Person, Person], stand_in: Running, named: str) -> None:
    here, there = ann
    conversation = await here.start(SLOW.replace("prompt=7 ", ""))
    listening = asyncio.create_task(here.listen(conversation))
    await first_events(there, conversation, 12)
    body = {"abortKey": f"{conversation}:x"} if named == "abortKey" else {named: conversation}
    body = {"streamId": "new"} if named == "new" else body
    stopped = await there.call("POST", "/api/agents/chat/abort", body)
    assert (stopped.status, stopped.json["success"]) == (200, True), stopped
    assert stopped.json["aborted"] == conversation
    events = await listening
    assert events[-1]["aborted"] is True
    usage = await settled(there)
    assert abs(usage["used"] - await produced(stand_in, conversation)) <= 3  # an estimate
    again = await there.call("POST", "/api/agents/chat/abort", {"streamId": conversation})
    assert again.status == 404
    assert words(await there.chat("go on [[tokens=2]]", conversationId=conversation)) == 2


async def test_another_tenants_answer_is_not_found(ann: tuple[Person, Person], bob: Person) -> None:
    here, there = ann
    conversation = await here.start(TEXT)
    stranger = await login(there.client, bob.email)
    for path in (conversation, f"{conversation}?resume=true"):
        assert (await stranger.call("GET", f"/api/agents/chat/stream/{path}")).status == 404
    for name in (conversation, "new"):
        answer = await stranger.call("POST", "/api/agents/chat/abort", {"streamId": name})
        assert answer.status == 404
    nobody = await call(there.client, "GET", f"/api/agents/chat/stream/{conversation}")
    assert nobody.status == 401
    events = await there.listen(conversation)
    assert events[-1]["final"] is True
    assert not events[-1].get("aborted")


async def test_misses_are_bounded(ann: tuple[Person, Person]) -> None:
    there = ann[1]

    async def miss() -> int:
        return (await there.call("GET", f"/api/agents/chat/stream/{uuid4()}")).status

    statuses = await asyncio.gather(*(miss() for _ in range(60)))
    assert set(statuses) == {404}
    limited = await there.call("GET", f"/api/agents/chat/stream/{uuid4()}")
    assert limited.status == 429
    assert int(limited.headers["Retry-After"]) > 0
    for name in ("../x", "a%00b", "x" * 300, "%27"):
        assert (await there.call("GET", f"/api/agents/chat/stream/{name}")).status in (400, 404, 405, 429)


@pytest.mark.parametrize("at", [0, 1])
async def test_who_comes_before_the_message_was_answered(
    ann: tuple[Person, Person], stand_in: Running, at: int
) -> None:
    here, listener = ann[0], ann[at]
    conversation = await here.start("first [[tokens=2]]")
    await here.listen(conversation)
    await order(stand_in, path="/api/agents/chat/MockUsage", kind="delay", delay_s=1.0)
    starting = asyncio.create_task(here.start(TEXT, conversationId=conversation))
    await asyncio.sleep(0.3)
    events = await listener.listen(conversation)
    assert words(events) == 40
    assert await starting == conversation


async def test_the_owner_sees_the_real_client(
    ann: tuple[Person, Person], pair: tuple[Running, Running]
) -> None:
    here, there = ann
    conversation = await here.start(TEXT)
    headers = {"Authorization": f"Bearer {there.token}", "X-Forwarded-For": "203.0.113.77"}
    async with there.client.get(f"/api/agents/chat/stream/{conversation}", headers=headers) as reply:
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "text/event-stream"
        assert len(reply.headers.getall("X-Request-Id")) == 1
        request_id = reply.headers["X-Request-Id"]
        await reply.read()
    for instance in pair:
        while not (
            lines := [each for each in instance.log_text().splitlines() if f" {request_id} GET" in each]
        ):
            await asyncio.sleep(0.02)  # it is written after the reply
        (line,) = lines
        assert f"/api/agents/chat/stream/{conversation} 200" in line
        assert "203.0.113.77" in line


async def instance_ids(dsn: str) -> dict[str, UUID]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("select instance_id, url from instances")
    await connection.close()
    return {row["url"]: row["instance_id"] for row in rows}


async def test_only_instances_can_make_the_header(
    ann: tuple[Person, Person], pair: tuple[Running, Running], e2e_dsn: str
) -> None:
    here, there = ann
    conversation = await here.start(TEXT)
    path = "/api/convos"
    ids = await instance_ids(e2e_dsn)
    raw = [(b"authorization", f"Bearer {there.token}".encode())]

    async def ask(secret: str, sent_to: str = path, **changed: Any) -> int:
        hop = Hop(ids[pair[1].url], time.time(), "198.51.100.4", "elsewhere", False, uuid4().hex, uuid4())
        hop = Hop(**({name: getattr(hop, name) for name in hop.__struct_fields__} | changed))
        value = HopSigner(secret).sign(hop, "GET", path, raw).decode()
        headers = {"Authorization": f"Bearer {there.token}", HEADER: value}
        return (await call(there.client, "GET", sent_to, None, headers)).status

    assert await ask(ENCRYPTION_SECRET, request_id="genuine") == 200
    assert " genuine GET /api/convos 200" in pair[1].log_text()
    assert await ask("f" * 64, request_id="forged") == 200  # as if it were not there
    assert await ask(ENCRYPTION_SECRET, f"{path}?limit=1", request_id="moved") == 200
    raw[0] = (b"authorization", b"Bearer of another")
    assert await ask(ENCRYPTION_SECRET, request_id="stolen") == 200
    log = pair[1].log_text()
    assert not any(f" {name} GET" in log for name in ("forged", "moved", "stolen"))
    assert log.count("made up the header") >= 3
    raw[0] = (b"authorization", f"Bearer {there.token}".encode())
    assert await ask(ENCRYPTION_SECRET, target=ids[pair[0].url]) == 421
    assert await ask(ENCRYPTION_SECRET, at=time.time() - 600) == 421
    made_up = {"Authorization": f"Bearer {there.token}", HEADER: "x.y"}
    answer = await call(there.client, "GET", f"/api/agents/chat/stream/{conversation}", None, made_up)
    assert b'"final":true' in answer.raw  # it was passed on all the same


async def test_what_is_passed_on_is_counted_once(
    e2e_dsn: str, stand_in: Running, log_dir: Path, ann: tuple[Person, Person]
) -> None:
    environment = geko_environment(e2e_dsn, stand_in.url) | {
        "GEKO_FILTER_RATE_LIMIT_LIMIT": "3",
        "GEKO_SERVER_MAX_REQUESTS_PER_ADDRESS": "1",
    }
    with running(["geko_proxy", "serve"], environment, log_dir / "strict") as strict:
        async with aiohttp.ClientSession(strict.url) as client:
            conversation = await replace(ann[0], client=client).start(TEXT)
            heard = await asyncio.gather(*(ann[1].listen(conversation) for _ in range(8)))
            assert [words(events) for events in heard] == [40] * 8


async def test_the_owner_is_killed_in_mid_stream(
    e2e_dsn: str, stand_in: Running, log_dir: Path, ann: tuple[Person, Person]
) -> None:
    there = ann[1]
    environment = geko_environment(e2e_dsn, stand_in.url)
    with running(["geko_proxy", "serve"], environment, log_dir / "doomed") as doomed:
        async with aiohttp.ClientSession(doomed.url) as client:
            conversation = await replace(there, client=client).start(SLOW)
            listening = asyncio.create_task(there.listen(conversation))
            await first_events(there, conversation, 45)  # it had its first heartbeat
            os.kill(doomed.pid, signal.SIGKILL)
            events = await listening  # a well-formed stream: its reader raises for one that is cut off
    assert words(events) >= 40
    assert "broke off" in json.loads(events[-1]["error"])["info"]
    begun = time.monotonic()
    for query in ("", "?resume=true"):
        answer = await there.call("GET", f"/api/agents/chat/stream/{conversation}{query}")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    stopped = await there.call("POST", "/api/agents/chat/abort", {"streamId": conversation})
    assert stopped.status == 503
    assert time.monotonic() - begun < 8
    connection = await asyncpg.connect(e2e_dsn)
    await connection.execute(
        "update leases set expires_at = now() - interval '1 s' where tenant_id = $1", UUID(there.tenant_id)
    )
    await connection.close()
    events = await resumed_and_stopped(there, conversation)  # the other instance reads it on
    assert (events[-1]["final"], events[-1]["aborted"]) == (True, True)
    usage = await settled(there)
    assert usage["leased"] == 0
    assert usage["used"] > 0


async def resumed_and_stopped(person: Person, conversation: str) -> list[dict[str, Any]]:
    """The rest of an answer that is stopped as soon as an instance has it."""
    for _ in range(200):
        async with person.subscribed(conversation, "?resume=true") as reply:
            if reply.status == 200:
                stop = await person.call("POST", "/api/agents/chat/abort", {"streamId": conversation})
                assert stop.status == 200
                return [event.json for event in SseParser().feed(await reply.read())]
        await asyncio.sleep(0.1)
    raise AssertionError("no instance took the answer over")


async def test_the_owner_drains(
    e2e_dsn: str, stand_in: Running, log_dir: Path, ann: tuple[Person, Person]
) -> None:
    there = ann[1]
    with running(["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url), log_dir / "old") as old:
        async with aiohttp.ClientSession(old.url) as client:
            conversation = await replace(there, client=client).start(TEXT)
            async with there.subscribed(conversation) as reply:
                await reply.content.readline()
                os.kill(old.pid, signal.SIGTERM)
                rest = await reply.read()
    assert b'"final":true' in rest
    assert b"event: error" not in rest
    assert (await settled(there))["used"] == 47
    assert old.url not in await instance_ids(e2e_dsn)
    assert (await there.call("GET", f"/api/agents/chat/stream/{conversation}")).status == 404


async def test_the_owner_is_frozen(
    e2e_dsn: str, stand_in: Running, log_dir: Path, ann: tuple[Person, Person]
) -> None:
    there = ann[1]
    environment = geko_environment(e2e_dsn, stand_in.url)
    with running(["geko_proxy", "serve"], environment, log_dir / "frozen") as frozen:
        async with aiohttp.ClientSession(frozen.url) as client:
            conversation = await replace(there, client=client).start(SLOW)
            listening = asyncio.create_task(there.listen(conversation))
            await first_events(there, conversation, 10)
            os.kill(frozen.pid, signal.SIGSTOP)
            try:
                answer = await there.call("GET", f"/api/agents/chat/stream/{conversation}")
                assert answer.status == 503
                events = await asyncio.wait_for(listening, 30)
            finally:
                os.kill(frozen.pid, signal.SIGCONT)
    assert "broke off" in json.loads(events[-1]["error"])["info"]


@pytest.mark.parametrize("leads", ["nowhere", "to nobody", "to another instance"])
async def test_an_owner_whose_address_is_wrong(
    e2e_dsn: str,
    stand_in: Running,
    log_dir: Path,
    ann: tuple[Person, Person],
    pair: tuple[Running, Running],
    leads: str,
) -> None:
    there = ann[1]
    url = {"nowhere": "none", "to nobody": "http://127.0.0.1:9", "to another instance": pair[1].url}[leads]
    environment = geko_environment(e2e_dsn, stand_in.url, GEKO_SERVER_PEER_URL=url)
    with running(["geko_proxy", "serve"], environment, log_dir / "lost") as lost:
        async with aiohttp.ClientSession(lost.url) as client:
            elsewhere = replace(there, client=client)
            conversation = await elsewhere.start(TEXT)
            answer = await there.call("GET", f"/api/agents/chat/stream/{conversation}")
            assert answer.status == 503
            assert answer.json == {"message": "The answer can't be reached at the moment. Try again soon."}
            assert words(await elsewhere.listen(conversation)) == 40
    if leads == "to another instance":
        assert "check server.peer_url" in pair[1].log_text()
