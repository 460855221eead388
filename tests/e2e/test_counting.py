"""Every kind of model call is charged: what the provider reports exactly, the rest within 3 % and marked.

The truth is the stand-in provider's own log of what it produced, prompts and hidden tokens included.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import jwt
import pytest

from geko_proxy.headers import BROWSER_USER_AGENT
from tests.e2e.people import Person, invite, register
from tests.e2e.processes import JWT_REFRESH_SECRET, JWT_SECRET, Running, geko_environment, running

WORDS = "word=river delay_ms=0"  # one token each for GEKO's tokenizer too
QUIET = "Mock"  # an endpoint that is not asked for usage
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0\0\0\x01\0\x08\x02\0\0\0"  # 256 × 256


class Books:
    """What was produced for a person, and what was charged."""

    def __init__(self, person: Person, stand_in: Running, dsn: str) -> None:
        self._person, self._stand_in, self._dsn = person, stand_in, dsn

    async def produced(self) -> int:
        """Tokens of all calls but titles; a call that the provider refused has cost nothing."""
        account = (await self._person.call("GET", "/api/user")).json["id"]
        async with self._person.client.get(f"{self._stand_in.url}/__standin__/log") as reply:
            log = json.loads(await reply.read())
        mine = [each for each in log if each["user"] == account and each["purpose"] != "title"]
        return sum(
            each["usage"]["total_tokens"] for each in mine if not each["outcome"].startswith("status ")
        )

    async def charged(self) -> list[Any]:
        """The ledger's rows, once nothing runs any more."""
        for _ in range(200):
            if (await self._person.usage())["leased"] == 0:
                break
            await asyncio.sleep(0.05)
        database = await asyncpg.connect(self._dsn)
        rows: list[Any] = await database.fetch(
            "select kind, model, tokens, estimated, cached_tokens, reasoning_tokens, source from usage_events"
            " where workspace_id = $1 order by recorded_at, seq",
            UUID(self._person.workspace_id),
        )
        await database.close()
        assert sum(row["tokens"] for row in rows) == (await self._person.usage())["used"]
        return rows

    async def exact(self, *kinds: str) -> list[Any]:
        """Asserts that all was reported and charged to the token, as calls of these kinds; gives the rows."""
        rows, produced = await self.charged(), await self.produced()
        assert sorted(row["kind"] for row in rows) == sorted(kinds)
        assert not any(row["estimated"] for row in rows)
        assert sum(row["tokens"] for row in rows) == produced > 0
        return rows

    async def near(self) -> list[Any]:
        """Asserts that what is charged differs by less than 3 % and that estimates are marked; gives the rows."""
        rows, produced = await self.charged(), await self.produced()
        assert any(row["estimated"] for row in rows)
        charged = sum(row["tokens"] for row in rows)
        assert abs(charged - produced) < 0.03 * produced, (charged, produced)
        return rows


@pytest.fixture
def books(alice: Person, stand_in: Running, e2e_dsn: str) -> Books:
    return Books(alice, stand_in, e2e_dsn)


@pytest.mark.parametrize("vendor", ["openAI", "anthropic", "google", "bedrock", "somebody"])
async def test_cached_tokens_count_once_whatever_the_provider_calls_input(
    alice: Person, books: Books, vendor: str
) -> None:
    await alice.chat(f"cached [[tokens=7 prompt=100 cached=60 cache_write=20 vendor={vendor}]]")
    (row,) = await books.exact("chat")
    assert (row["tokens"], row["cached_tokens"]) == (107, 60)


async def test_reasoning_that_streams_is_part_of_the_output(alice: Person, books: Books) -> None:
    await alice.chat("think [[tokens=7 reasoning=5]]")
    (row,) = await books.exact("chat")
    assert row["reasoning_tokens"] == 0


async def test_reasoning_that_nobody_sees_is_charged_too(alice: Person, books: Books) -> None:
    await alice.chat("think [[tokens=7 hidden=300 vendor=vertexai]]")
    (row,) = await books.exact("chat")
    assert row["reasoning_tokens"] == 300


async def test_unreported_reasoning_is_counted_as_it_streams(alice: Person, books: Books) -> None:
    await alice.chat(f"think [[tokens=400 reasoning=5 {WORDS}]]", endpoint=QUIET)
    await books.near()


async def test_each_call_of_a_tool_loop(alice: Person, books: Books) -> None:
    await alice.chat("tools [[tokens=9 calls=3 delay_ms=1]]")
    await books.exact("chat", "chat", "chat")


async def test_an_unreported_tool_loop_pays_for_every_prompt(alice: Person, books: Books) -> None:
    await alice.chat(f"tools [[tokens=300 calls=3 {WORDS}]]", endpoint=QUIET)
    rows = await books.near()
    assert len(rows) == 3


async def test_a_sub_agent(alice: Person, books: Books) -> None:
    await alice.chat("delegate [[tokens=9 subagent=12 delay_ms=1]]")
    await books.exact("chat", "chat", "subagent")


async def test_an_unreported_sub_agent_is_counted_by_its_updates(alice: Person, books: Books) -> None:
    await alice.chat(f"delegate [[tokens=500 subagent=500 {WORDS}]]", endpoint=QUIET)
    rows = await books.near()
    assert sorted(row["kind"] for row in rows) == ["chat", "chat", "subagent"]


async def test_a_hidden_agent_of_a_chain(alice: Person, books: Books) -> None:
    await alice.chat("in turn [[tokens=9 sequential=8]]")
    await books.exact("chat", "sequential")


async def test_a_summary(alice: Person, books: Books) -> None:
    await alice.chat("sum up [[tokens=9 summary=15]]")
    await books.exact("chat", "summarization")


async def test_an_unreported_summary_pays_for_what_it_read(alice: Person, books: Books) -> None:
    await alice.chat(f"sum up [[tokens=500 summary=300 {WORDS}]]", endpoint=QUIET)
    rows = await books.near()
    assert sorted(row["kind"] for row in rows) == ["chat", "summarization"]


async def test_all_kinds_in_one_answer(alice: Person, books: Books) -> None:
    order = (
        "tokens=9 calls=3 subagent=12 sequential=8 summary=15 reasoning=4 vendor=bedrock cached=5 hidden=6"
    )
    await alice.chat(f"everything [[{order} delay_ms=1]]")
    await books.exact("chat", "chat", "chat", "sequential", "subagent", "summarization")


@pytest.mark.parametrize(
    ("first", "second"), [("MockUsage", "MockUsage"), (QUIET, QUIET), ("MockUsage", QUIET)]
)
async def test_an_added_conversation(alice: Person, books: Books, first: str, second: str) -> None:
    added = {"endpoint": second, "endpointType": "custom", "model": "gpt-4o"}
    await alice.chat(f"both [[tokens=400 {WORDS}]]", endpoint=first, addedConvo=added)
    if first == second == "MockUsage":
        rows = await books.exact("chat", "chat")
    else:
        rows = await books.near()
        assert sum(not row["estimated"] for row in rows) == (first != second)
    assert {row["model"] for row in rows} == {"gpt-4o", "gpt-4o-mini"}


async def test_regenerate_edit_and_continue_pay_anew(alice: Person, books: Books) -> None:
    whole = await alice.chat("first [[tokens=9]]")
    question, answer = whole[-1]["requestMessage"], whole[-1]["responseMessage"]
    conversation = question["conversationId"]
    again = {"conversationId": conversation, "isRegenerate": True, "responseMessageId": answer["messageId"]}
    again |= {"overrideParentMessageId": question["messageId"], "parentMessageId": question["messageId"]}
    await alice.chat(question["text"], **again)
    await alice.chat("first, edited [[tokens=8]]", conversationId=conversation)
    edited = {"index": 0, "type": "text", "text": "the quick"}
    await alice.chat(question["text"], **{**again, "isContinued": True, "editedContent": edited})
    await books.exact("chat", "chat", "chat", "chat")


async def test_an_unreported_continuation_charges_what_is_new(alice: Person, books: Books) -> None:
    whole = await alice.chat(f"first [[tokens=400 {WORDS}]]", endpoint=QUIET)
    question, answer = whole[-1]["requestMessage"], whole[-1]["responseMessage"]
    edited = {"index": 0, "type": "text", "text": "river river"}
    more = {"conversationId": question["conversationId"], "isContinued": True, "editedContent": edited}
    more |= {"responseMessageId": answer["messageId"], "overrideParentMessageId": question["messageId"]}
    more |= {"parentMessageId": question["messageId"]}
    await alice.chat(question["text"], endpoint=QUIET, **more)
    await books.near()


async def stop_after(person: Person, text: str, mark: bytes, times: int, **fields: Any) -> None:
    """Start an answer and stop it when so many of its events have come."""
    conversation = await person.start(text, **fields)
    async with person.subscribed(conversation) as reply:
        async for line in reply.content:
            times -= mark in line
            if not times:
                break
        stopped = await person.call("POST", "/api/agents/chat/abort", {"streamId": conversation})
        assert stopped.status == 200
        assert b'"aborted":true' in await reply.read()


async def test_stopped_by_the_user(alice: Person, books: Books) -> None:
    await stop_after(alice, "stop [[tokens=5000 word=river delay_ms=4]]", b"on_message_delta", 250)
    (row,) = await books.near()
    assert row["estimated"]


async def test_stopped_in_the_second_call_of_a_tool_loop(alice: Person, books: Books) -> None:
    order = "tokens=250 calls=9 word=river delay_ms=3"
    await stop_after(alice, f"stop [[{order}]]", b"on_run_step_delta", 450)
    first, second = await books.near()
    assert sorted([first["estimated"], second["estimated"]]) == [False, True]


async def test_a_provider_that_never_reports(alice: Person, books: Books) -> None:
    await alice.chat(f"silent [[tokens=500 usage=never {WORDS}]]")
    (row,) = await books.near()
    assert row["source"] == "estimate"


async def test_a_provider_that_dies_in_the_middle(alice: Person, books: Books) -> None:
    await alice.chat(f"die [[tokens=900 die_after=500 {WORDS}]]")
    await books.near()


async def test_a_provider_that_fails_at_once_costs_nothing(alice: Person, books: Books) -> None:
    await alice.chat("x [[status=400 only=gpt-4o]]", model="gpt-4o")
    assert await books.charged() == []
    assert await books.produced() == 0


async def test_a_provider_that_fails_in_the_second_call(alice: Person, books: Books) -> None:
    """What was reported before stays charged; the call that was refused costs nothing."""
    events = await alice.chat("x [[tokens=9 calls=2 fail_last=400 delay_ms=1]]")
    assert events[-1]["responseMessage"]["content"][-1]["type"] == "error"
    await books.exact("chat")


async def upload(person: Person) -> dict[str, Any]:
    """A picture, uploaded as LibreChat's page does."""
    form = aiohttp.FormData()
    fields = {"endpoint": "MockUsage", "file_id": "f", "width": "256", "height": "256"}
    for name, value in fields.items():
        form.add_field(name, value)
    form.add_field("file", PNG, filename="pic.png", content_type="image/png")
    headers = {"Authorization": f"Bearer {person.token}", "User-Agent": BROWSER_USER_AGENT}
    async with person.client.post("/api/files/images", data=form, headers=headers) as reply:
        assert reply.status == 200, await reply.text()
        stored = json.loads(await reply.read())
    return {name: stored[name] for name in ("file_id", "filepath", "type")} | {"width": 256, "height": 256}


@pytest.mark.parametrize("endpoint", ["MockUsage", QUIET])
async def test_pictures(alice: Person, books: Books, endpoint: str) -> None:
    text = f"look [[tokens=300 image=255 {WORDS}]]"
    await alice.chat(text, endpoint=endpoint, files=[await upload(alice)])
    if endpoint == QUIET:
        await books.near()
    else:
        await books.exact("chat")


async def test_a_picture_is_part_of_what_is_leased_at_the_start(alice: Person) -> None:
    picture = {**await upload(alice), "width": 2000, "height": 768}
    await alice.set_quota(1000)
    refused = await alice.post_chat("look [[tokens=3]]", files=[picture])
    assert refused.status == 429
    assert (await alice.post_chat("look [[tokens=3]]")).status == 200


# -- the Agents API


async def new_agent(person: Person, **fields: Any) -> str:
    """The id of a new agent."""
    agent = {"name": "Ann", "provider": "MockUsage", "model": "gpt-4o", "model_parameters": {}, "tools": []}
    made = await person.call("POST", "/api/agents", {**agent, **fields})
    assert made.status == 201, made
    return str(made.json["id"])


def body_of(api: str, agent_id: str, text: str, *, stream: bool) -> tuple[str, dict[str, Any]]:
    """Path and body of a request."""
    body: dict[str, Any] = {"model": agent_id, "stream": stream}
    said = {"input": text} if api == "responses" else {"messages": [{"role": "user", "content": text}]}
    return f"/api/agents/v1/{api}", body | said


async def ask(person: Person, api: str, agent_id: str, text: str, *, stream: bool) -> Any:
    """Ask an agent; the JSON of the reply, or of all its events."""
    path, body = body_of(api, agent_id, text, stream=stream)
    answer = await person.call("POST", path, body, Accept_Encoding="gzip")
    assert answer.status == 200, answer
    if not stream:
        return answer.json
    assert answer.raw.endswith(b"data: [DONE]\n\n")
    lines = [line[6:] for line in answer.raw.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


BOTH_APIS = pytest.mark.parametrize("api", ["chat/completions", "responses"])
STREAM_AND_NOT = pytest.mark.parametrize("stream", [True, False])


@BOTH_APIS
@STREAM_AND_NOT
async def test_agents_api_is_charged_what_was_reported(
    alice: Person, books: Books, api: str, *, stream: bool
) -> None:
    agent_id = await new_agent(alice)
    said = await ask(alice, api, agent_id, "hello [[tokens=6 prompt=44 delay_ms=1]]", stream=stream)
    assert "the quick brown fox jumps over" in json.dumps(said) or stream
    (row,) = await books.exact("chat")
    assert (row["tokens"], row["model"]) == (50, "gpt-4o")


@BOTH_APIS
@STREAM_AND_NOT
async def test_agents_api_without_reports_is_counted(
    alice: Person, books: Books, api: str, *, stream: bool
) -> None:
    agent_id = await new_agent(alice, provider=QUIET)
    await ask(alice, api, agent_id, f"hello [[tokens=500 {WORDS}]]", stream=stream)
    await books.near()


@STREAM_AND_NOT
async def test_agents_api_sums_a_tool_loop(alice: Person, books: Books, *, stream: bool) -> None:
    agent_id = await new_agent(alice)
    said = await ask(alice, "chat/completions", agent_id, "x [[tokens=6 calls=3 delay_ms=1]]", stream=stream)
    if not stream:
        assert len(said["choices"][0]["message"]["tool_calls"]) == 2
    await books.exact("chat")


@STREAM_AND_NOT
async def test_agents_api_responses_report_the_last_call_only(
    alice: Person, books: Books, *, stream: bool
) -> None:
    """LibreChat overwrites the numbers of earlier calls: those are estimated."""
    agent_id = await new_agent(alice)
    await ask(alice, "responses", agent_id, f"x [[tokens=400 calls=3 {WORDS}]]", stream=stream)
    rows = await books.near()
    assert [row["estimated"] for row in rows].count(False) == 1


@BOTH_APIS
async def test_agents_api_shows_json_as_librechat_does(alice: Person, api: str, stand_in: Running) -> None:
    """GEKO reads a stream and makes the one object of it: but for ids and times the same."""
    agent_id = await new_agent(alice)
    path, body = body_of(
        api, agent_id, "x [[tokens=6 reasoning=2 calls=2 prompt=5 delay_ms=0]]", stream=False
    )
    ours = (await alice.call("POST", path, body)).json
    bearer = librechat_bearer((await alice.call("GET", "/api/user")).json["id"])
    key = await librechat(alice, stand_in, "POST", "/api/api-keys", {"name": "k"}, bearer)
    theirs = await librechat(alice, stand_in, "POST", path, body, key["key"])
    assert shape(ours) == shape(theirs)


def shape(value: Any) -> Any:
    """A value without ids and times."""
    if isinstance(value, dict):
        changing = {"id", "call_id", "created", "created_at", "completed_at"}
        return {name: None if name in changing else shape(each) for name, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else value


@BOTH_APIS
@STREAM_AND_NOT
async def test_agents_api_is_cut_when_the_quota_is_used_up(
    alice: Person, books: Books, api: str, *, stream: bool
) -> None:
    agent_id = await new_agent(alice)
    await alice.set_quota(500)
    said = await ask(alice, api, agent_id, "long [[tokens=3000 word=river delay_ms=1]]", stream=stream)
    last = said[-1] if stream else said
    error = last.get("error") or last["response"]["error"]
    assert error["code"] == "quota_exceeded"
    assert "token quota of workspace Default is used up" in error["message"]
    rows = await books.charged()
    assert sum(row["tokens"] for row in rows) == 500
    produced = await books.produced()
    assert 500 <= produced < 1000  # LibreChat was stopped
    path, body = body_of(api, agent_id, "more", stream=stream)
    refused = await alice.call("POST", path, body)
    assert refused.status == 429
    assert refused.json["error"]["code"] == "quota_exceeded"
    assert int(refused.headers["Retry-After"]) > 0


@BOTH_APIS
async def test_agents_api_leaving_stops_the_model_and_is_charged(
    alice: Person, books: Books, api: str
) -> None:
    agent_id = await new_agent(alice)
    path, body = body_of(api, agent_id, "long [[tokens=9000 word=river delay_ms=4]]", stream=True)
    headers = {"Authorization": f"Bearer {alice.token}", "User-Agent": BROWSER_USER_AGENT}
    async with alice.client.post(path, json=body, headers=headers) as reply:
        seen = 0
        async for line in reply.content:
            seen += b"river" in line
            if seen == 300:
                break
        reply.close()
    await asyncio.sleep(0.5)
    (row,) = await books.near()
    assert row["estimated"]
    assert await books.produced() < 1000


@BOTH_APIS
async def test_agents_api_leaving_before_the_json_came_is_charged(
    alice: Person, books: Books, api: str
) -> None:
    agent_id = await new_agent(alice)
    path, body = body_of(api, agent_id, "x [[tokens=500 word=river delay_ms=2]]", stream=False)
    headers = {"Authorization": f"Bearer {alice.token}", "User-Agent": BROWSER_USER_AGENT}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.8), alice.client.post(path, json=body, headers=headers):
            pass
    await asyncio.sleep(1.5)
    charged = sum(row["tokens"] for row in await books.charged())
    produced = await books.produced()
    assert (
        abs(charged - produced) <= 0.03 * produced + 10
    )  # whether the model was stopped or went on to its end


async def test_agents_api_stream_of_a_removed_member_ends(alice: Person, books: Books) -> None:
    member = await invite(alice, "member", f"m{alice.email}")
    path, body = body_of("responses", await new_agent(member), "x [[tokens=400 delay_ms=25]]", stream=True)
    me = (await member.call("GET", "/v1/auth/me")).json["user"]["id"]
    headers = {"Authorization": f"Bearer {member.token}"}
    async with member.client.post(path, json=body, headers=headers) as reply:
        raw = await reply.content.readuntil(b"output_text.delta")
        gone = await alice.call("DELETE", f"/v1/workspaces/{alice.workspace_id}/members/{me}")
        assert gone.status == 204
        async with asyncio.timeout(8):  # the whole answer takes ten seconds
            raw += await reply.content.read()
    assert raw.count(b"output_text.delta") < 600  # each is named twice
    (row,) = await books.charged()
    assert row["estimated"]


@BOTH_APIS
@STREAM_AND_NOT
async def test_agents_api_failures_cost_nothing(
    alice: Person, books: Books, api: str, *, stream: bool
) -> None:
    agent_id = await new_agent(alice)
    path, body = body_of(api, agent_id, "x [[status=429 message=slow]]", stream=stream)
    answer = await alice.call("POST", path, body)
    assert answer.status == (200 if stream else 429)
    assert b"429 slow" in answer.raw
    assert await books.charged() == []


async def test_agents_api_refuses_what_it_can_not_meter(alice: Person, stand_in: Running) -> None:
    nested = await new_agent(alice, subagents={"enabled": True})
    lump = await new_agent(alice)
    bearer = librechat_bearer((await alice.call("GET", "/api/user")).json["id"])
    change = {"model_parameters": {"disableStreaming": True}}  # GEKO itself strips it
    await librechat(alice, stand_in, "PATCH", f"/api/agents/{lump}", change, bearer)
    for agent_id, reason in ((nested, "sub-agents"), (lump, "does not stream")):
        path, body = body_of("responses", agent_id, "x", stream=True)
        refused = await alice.call("POST", path, body)
        assert (refused.status, refused.json["error"]["code"]) == (403, "agent_not_metered")
        assert reason in refused.json["error"]["message"]


async def test_agents_api_makes_one_key_and_another_when_it_is_gone(
    alice: Person, stand_in: Running, e2e_dsn: str, geko: Running
) -> None:
    agent_id = await new_agent(alice)
    listed = await asyncio.gather(*(alice.call("GET", "/api/agents/v1/models") for _ in range(8)))
    assert {answer.status for answer in listed} == {200}
    assert [each["id"] for each in listed[0].json["data"]] == [agent_id]
    bearer = librechat_bearer((await alice.call("GET", "/api/user")).json["id"])
    (key,) = (await librechat(alice, stand_in, "GET", "/api/api-keys", None, bearer))["keys"]
    await librechat(alice, stand_in, "DELETE", f"/api/api-keys/{key['id']}", None, bearer)
    await ask(alice, "chat/completions", agent_id, "x [[tokens=3]]", stream=False)
    (another,) = (await librechat(alice, stand_in, "GET", "/api/api-keys", None, bearer))["keys"]
    assert another["id"] != key["id"]

    database = await asyncpg.connect(e2e_dsn)
    query = "select * from agent_keys where workspace_id = $1"
    (row,) = await database.fetch(query, UUID(alice.workspace_id))
    await database.close()
    assert row["librechat_key_id"] == another["id"]
    assert "sk-" not in row["sealed_key"]
    assert "sk-" not in geko.log_text()
    assert (await alice.call("GET", "/api/api-keys")).status == 404  # people can make none themselves


def librechat_bearer(account_id: str) -> str:
    """A token as LibreChat signs them."""
    claims = {"id": account_id, "iat": int(time.time()), "exp": int(time.time()) + 600}
    return jwt.encode(claims, JWT_SECRET, algorithm="HS256")


async def librechat(person: Person, stand_in: Running, method: str, path: str, body: Any, bearer: str) -> Any:
    """A call around GEKO, straight to LibreChat."""
    headers = {"Authorization": f"Bearer {bearer}", "User-Agent": BROWSER_USER_AGENT}
    url = stand_in.url + path
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, json=body, headers=headers) as reply,
    ):
        assert reply.status < 300, await reply.text()
        return json.loads(await reply.read() or b"null")


@BOTH_APIS
async def test_agents_api_streams_when_librechat_would_compress(
    api: str, e2e_dsn: str, log_dir: Path
) -> None:
    """A compressed stream arrives in one lump at the end (contract §6): GEKO never lets LibreChat compress it."""
    secrets = ["--jwt-secret", JWT_SECRET, "--jwt-refresh-secret", JWT_REFRESH_SECRET, "--compression"]
    command = ["geko_proxy.demo.librechat", "--port", "0", *secrets]
    with running(command, {}, log_dir / "librechat") as upstream:
        settings = geko_environment(e2e_dsn, upstream.url)
        with running(["geko_proxy", "serve"], settings, log_dir / "geko") as server:
            async with aiohttp.ClientSession(server.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
                name = api.replace("/", "")
                carol = await register(client, f"carol{name}{Path(log_dir).name}@example.org", "Carol")
                arrivals = await arrival_times(carol, api)
                books = Books(carol, upstream, e2e_dsn)
                await books.exact("chat")
    assert len(arrivals) == 12
    assert sum(later - earlier > 0.02 for earlier, later in itertools.pairwise(arrivals)) >= 8


async def arrival_times(person: Person, api: str) -> list[float]:
    """When each word of an answer came."""
    agent_id = await new_agent(person)
    path, body = body_of(api, agent_id, "x [[tokens=12 word=river delay_ms=50]]", stream=True)
    headers = {"Authorization": f"Bearer {person.token}", "Accept-Encoding": "gzip"}
    clock: Callable[[], float] = asyncio.get_running_loop().time
    async with person.client.post(path, json=body, headers=headers) as reply:
        return [
            clock()
            async for line in reply.content
            if b"river" in line and b"delta" in line and b"done" not in line
        ]
