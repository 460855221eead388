"""The reconcile report over sockets: answers made past GEKO, answers made through it, and hidden calls."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.e2e.gateway import LlmSide, llm_side, toml
from tests.e2e.people import Person, invite, register
from tests.e2e.processes import Running, running
from tests.e2e.test_usage_reports import live

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def side(e2e_dsn: str, stand_in: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmSide]:
    """A GEKO whose LibreChat makes its answers by itself: the tests make the calls in its place."""
    log = tmp_path_factory.mktemp("provider") / "log"
    command = ["geko_proxy.demo.provider", "--port", "0", "--key", "provider-key"]
    with running(command, {}, log) as provider:
        settings = toml({"MockUsage": provider.url}, {"MockUsage": ("gpt-4o", "gpt-4o-mini")})
        with llm_side(e2e_dsn, stand_in.url, settings, tmp_path_factory.mktemp("llm")) as found:
            yield found


@pytest.fixture
async def alice(side: LlmSide) -> AsyncIterator[Person]:
    async with aiohttp.ClientSession(side.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"rec{os.getpid()}n{next(numbers)}@example.org", "Alice")


async def get(person: Person, what: str) -> Any:
    """What an address below the workspace's usage answers."""
    answer = await person.call("GET", f"/v1/workspaces/{person.workspace_id}/usage{what}")
    assert answer.status == 200, answer
    return answer.json


async def answer_through(side: LlmSide, person: Person) -> str:
    """An answer of 60 words whose model calls come through GEKO, and a title; its conversation's id."""
    conversation = await person.start("go [[tokens=60 prompt=20 delay_ms=30]]")
    reading = asyncio.create_task(person.listen(conversation))
    for text, kind in (("[[tokens=40]]", None), ("[[tokens=30]]", None), ("[[tokens=5]]", "title")):
        reply = await side.call(
            person,
            "gpt-4o-mini",
            text,
            provider="MockUsage",
            conversation=conversation,
            kind=kind,
            stream=kind is None,  # titles come in one piece
        )
        assert reply.status == 200, reply
    await reading
    return conversation


async def test_an_answer_is_billed_from_its_calls_once_they_come_through(
    side: LlmSide, alice: Person
) -> None:
    await alice.chat("past GEKO [[tokens=12 prompt=40]]")
    before = await get(alice, "/reconcile")
    (row,) = before["turns"]
    assert (row["billedFrom"], row["billed"], row["stream"]["tokens"]) == ("stream", 52, 52)
    assert (row["calls"]["number"], row["difference"], before["endpointsBesideGateway"]) == (0, None, [])

    conversation = await answer_through(side, alice)
    found = await get(alice, "/reconcile")
    through, past = found["turns"]
    assert past == row
    assert (through["conversationId"], through["billedFrom"], through["stream"]["tokens"]) == (
        conversation,
        "calls",
        80,
    )
    kinds = through["calls"]["byKind"]
    assert {kind: each["number"] for kind, each in kinds.items()} == {"chat": 2, "title": 1}
    assert through["billed"] == through["calls"]["tokens"] == sum(each["tokens"] for each in kinds.values())
    assert through["difference"] == kinds["chat"]["tokens"] - 80
    totals = found["totals"]
    assert (totals["byStream"], totals["byCalls"]) == (52, kinds["chat"]["tokens"])
    assert totals["hidden"]["withMessage"] == {"title": kinds["title"]}
    assert totals["compared"]["difference"] == through["difference"]
    (endpoint,) = found["endpointsBesideGateway"]
    assert (endpoint["endpoint"], endpoint["turnsByStream"], endpoint["turnsByCalls"]) == ("MockUsage", 1, 1)

    report = await get(alice, "?by=kind")
    assert report["used"] == totals["billed"] == through["billed"] + 52
    assert {row["kind"]: (row["turns"], row["calls"]) for row in report["rows"]} == {
        "chat": (2, 3),
        "title": (0, 1),
    }
    text = await alice.call("GET", f"/v1/workspaces/{alice.workspace_id}/usage/reconcile?format=csv")
    rows = list(csv.DictReader(io.StringIO(text.raw.decode(), newline="")))
    assert [(row["turnId"], row["billedFrom"], int(row["billed"])) for row in rows] == [
        (row["turnId"], row["billedFrom"], row["billed"]) for row in found["turns"]
    ]


async def test_every_kind_of_call_shows_in_the_reports_and_is_no_turn(side: LlmSide, alice: Person) -> None:
    kinds = ("title", "memory", "summary", "embedding", "image", "audio")
    for kind in kinds[:3]:
        reply = await side.call(alice, "gpt-4o-mini", "[[tokens=3]]", provider="MockUsage", kind=kind)
        assert reply.status == 200
    for path, body in (
        ("embeddings", {"input": "some words"}),
        ("images/generations", {"prompt": "a cat"}),
        ("audio/speech", {"input": "say this", "voice": "alloy"}),
    ):
        reply = await side.call(
            alice, "gpt-4o-mini", "", provider="MockUsage", path=path, messages=..., **body
        )
        assert reply.status == 200, (path, reply)
    found = await get(alice, "/reconcile")
    hidden = found["totals"]["hidden"]
    assert (set(hidden["withoutMessage"]), hidden["withMessage"], found["turns"]) == (set(kinds), {}, [])
    report = await get(alice, "?by=kind,model,day")
    assert {row["kind"]: (row["turns"], row["calls"]) for row in report["rows"]} == dict.fromkeys(
        kinds, (0, 1)
    )
    assert {(row["endpoint"], row["model"]) for row in report["rows"]} == {("MockUsage", "gpt-4o-mini")}
    assert (report["totals"]["turns"], report["byMember"][0]["turns"]) == (0, 0)
    assert report["used"] == found["totals"]["billed"] == hidden["tokens"]
    text = await alice.call("GET", f"/v1/workspaces/{alice.workspace_id}/usage?by=kind&format=csv")
    rows = csv.DictReader(io.StringIO(text.raw.decode(), newline=""))
    assert {row["kind"]: (row["turns"], row["calls"]) for row in rows} == dict.fromkeys(kinds, ("0", "1"))


async def test_live_figures_while_an_answer_and_its_calls_run(side: LlmSide, alice: Person) -> None:
    await alice.set_quota(50_000)
    async with live(alice) as stream:
        await stream.until(used=0, runningTurns=0)
        conversation = await alice.start("go [[tokens=150 prompt=20 delay_ms=30]]")
        calling = asyncio.create_task(
            side.call(
                alice,
                "gpt-4o-mini",
                "[[tokens=100 delay_ms=30]]",
                provider="MockUsage",
                conversation=conversation,
                stream=True,
            )
        )
        running_now = await stream.until(runningTurns=1)
        assert running_now["remaining"] == 50_000 - running_now["leased"] - running_now["used"]
        await alice.listen(conversation)
        assert (await calling).status == 200
        billed = (await get(alice, "/reconcile"))["totals"]["billed"]
        after = await stream.until(used=billed, runningTurns=0, leased=0)
        assert after["remaining"] == 50_000 - billed
        assert billed > 100


async def test_members_do_not_get_the_report(side: LlmSide, alice: Person) -> None:
    member = await invite(alice, "member", f"recm{os.getpid()}n{next(numbers)}@example.org")
    answer = await member.call("GET", f"/v1/workspaces/{alice.workspace_id}/usage/reconcile")
    assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden")
