"""What somebody has tried on GEKO, and must not work again."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import aiohttp
import pytest

from tests.e2e.people import PASSWORD, Person, call, deltas
from tests.e2e.processes import Running


async def test_a_glob_can_not_stop_the_process(alice: Person, client: aiohttp.ClientSession) -> None:
    await alice.set_config(models=["M/*" + "a*" * 100 + "b"])
    started = time.monotonic()
    refused, alive = await asyncio.gather(
        alice.post_chat("x", endpoint="M", model="a" * 250), call(client, "GET", "/healthz")
    )
    assert (refused.status, alive.status) == (403, 200)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("conversation", ["a/x", "../active", "x" * 101, "a b", "é", "%2e"])
async def test_ids_that_no_conversation_has(alice: Person, conversation: str) -> None:
    refused = await alice.post_chat("x", conversationId=conversation)
    assert refused.status == 400
    assert "conversationId" in refused.json["message"]


async def test_a_conversation_must_be_there_to_go_on(alice: Person, bob: Person) -> None:
    invented = str(uuid.uuid4())
    for person in (alice, bob):
        assert (await person.post_chat("same new id", conversationId=invented)).status == 404


async def test_a_cut_answer_holds_no_more_than_was_passed_on(alice: Person) -> None:
    await alice.set_quota(300)
    conversation = await alice.start("flood [[tokens=20000 prompt=10 delay_ms=0]]")
    events = await alice.listen(conversation)
    passed = deltas(events)
    (text, error) = events[-1]["responseMessage"]["content"]
    assert text["text"] == passed
    assert "used up" in error["error"]
    stored = (await alice.call("GET", f"/api/messages/{conversation}")).json[-1]
    assert stored["content"][0]["text"] == passed
    assert len(passed.split()) <= 300


@pytest.mark.parametrize("where", ["promptPrefix", "addedConvo", "quotes"])
async def test_a_prompt_must_fit_wherever_it_hides(alice: Person, where: str) -> None:
    await alice.set_quota(1000)
    long = "word " * 5000
    every: dict[str, dict[str, Any]] = {
        "promptPrefix": {"promptPrefix": long},
        "addedConvo": {"addedConvo": {"endpoint": "MockUsage", "model": "gpt-4o", "promptPrefix": long}},
        "quotes": {"quotes": [{"text": long}]},
    }
    refused = await alice.post_chat("short", **every[where])
    assert refused.status == 429
    assert (await alice.usage())["used"] == 0


async def test_a_long_conversation_is_leased_with_its_history(alice: Person) -> None:
    conversation = await alice.start("remember [[tokens=5 prompt=900]]")
    await alice.listen(conversation)
    await alice.set_quota(1500)
    assert (await alice.post_chat("go on [[tokens=5]]", conversationId=conversation)).status == 429


@pytest.mark.parametrize("path", ["/v1/auth/login", "/api/auth/login", "/v1/auth/logout", "/api/auth/logout"])
async def test_another_sites_page_can_not_sign_anybody_in_or_out(
    client: aiohttp.ClientSession, alice: Person, path: str
) -> None:
    body = f'{{"email":"{alice.email}","password":"{PASSWORD}"}}'.encode()
    for headers in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://["},
    ):
        answer = await call(client, "POST", path, body, {"Content-Type": "text/plain", **headers})
        assert answer.status == 403
        assert "Set-Cookie" not in answer.headers


async def test_odd_heads_are_no_server_errors(geko: Running, client: aiohttp.ClientSession) -> None:
    host, port = geko.url.removeprefix("http://").split(":")
    heads = [
        b"Cookie: lang=\xe2\x82\xac",
        b'Cookie: lang="a\\015X-Tenant-Id: evil"',
        b'Cookie: lang="a\\000b"',
        b'Host: a"<>\\,b\xff',
        b"Origin: http://[",
    ]
    for head in heads:
        reader, writer = await asyncio.open_connection(host, int(port))
        named = b"" if head.startswith(b"Host") else b"Host: x\r\n"
        writer.write(b"GET /api/config HTTP/1.1\r\n" + named + head + b"\r\nConnection: close\r\n\r\n")
        reply = await reader.read()
        writer.close()
        assert int(reply.split()[1]) < 500, (head, reply[:200])
    assert "Traceback" not in geko.log_text()


async def test_a_body_of_unknown_fields_gets_a_short_answer(client: aiohttp.ClientSession) -> None:
    body = b"{" + b",".join(b'"field%d":1' % number for number in range(800)) + b"}"
    answer = await call(client, "POST", "/v1/auth/login", body, {"Content-Type": "application/json"})
    assert answer.status == 400
    assert len(answer.raw) < 5000
    huge = b"{" + b" " * 20_000 + b"}"
    assert (await call(client, "POST", "/v1/auth/login", huge)).status == 413


async def test_one_person_can_not_run_answers_without_end(alice: Person) -> None:
    answers = await asyncio.gather(*(alice.post_chat("hold [[tokens=1 first_ms=3000]]") for _ in range(40)))
    statuses = [answer.status for answer in answers]
    assert statuses.count(200) <= 32
    assert 429 in statuses
