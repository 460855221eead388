"""POST /v1/chat/send over a real socket, with an answer that the test feeds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from geko_proxy.accounts.shadow import ShadowAccounts
from geko_proxy.accounts.tokens import Identity
from geko_proxy.client_api.chat import Chat
from geko_proxy.errors import Refused
from geko_proxy.event_log import EventLog
from geko_proxy.exchange import Exchange, Reply, Request, Route
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.relay import ClientLeft
from geko_proxy.services import Services
from geko_proxy.sse import SseEvent, SseParser
from geko_proxy.turn import Turn

HISTORY = [{"messageId": "last", "isCreatedByUser": False, "endpoint": "Mock", "model": "gpt-4o"}]


@dataclass
class Stage:
    """The endpoint with everything around it played by the test."""

    log: EventLog = field(default_factory=EventLog)
    started: list[dict[str, Any]] = field(default_factory=list)
    refusal: Refused | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def start(self, exchange: Exchange, body: dict[str, Any], request: web.BaseRequest) -> Turn:
        if self.refusal is not None:
            raise self.refusal
        self.started.append(body)
        inner = SimpleNamespace(model="Mock/gpt-4o", turn_id=None)
        return cast(Turn, SimpleNamespace(stream_id="c1", log=self.log, exchange=inner))

    async def get(self, *key: object) -> object:
        return key

    async def bearer(self, shadow: object) -> str:
        return "bearer"

    async def messages(self, bearer: str, conversation_id: str) -> list[dict[str, Any]]:
        return self.history

    def say(self, **data: Any) -> None:
        self.log.append(SseEvent.message(data).raw)

    def word(self, text: str) -> None:
        content = [{"type": "text", "text": text}]
        self.say(event="on_message_delta", data={"id": "s", "delta": {"content": content}})

    def end(self, text: str) -> None:
        content = [{"type": "text", "text": text}]
        self.say(final=True, responseMessage={"messageId": "m1", "content": content})
        self.log.close()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    played = Stage()
    services = cast(
        Services,
        SimpleNamespace(
            counter=TokenCounter(),
            shadows=cast(ShadowAccounts, played),
            client=played,
            usage=SimpleNamespace(standings=None),
        ),
    )
    chat = Chat(services, played.start)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        asked = Request("POST", "/v1/chat/send", "", request.headers, body=await request.read())
        exchange = Exchange("r1", asked, Route.OWN, "chat.send", {}, 0.0)
        exchange.user = cast(Identity, SimpleNamespace(tenant_id=1, workspace_id=2, user_id=3))
        try:
            answer = await chat.send(exchange, request)
        except (ClientLeft, asyncio.CancelledError):
            played.left.set()
            raise
        except Refused as refused:
            return web.json_response({"code": refused.code}, status=refused.status)
        if isinstance(answer, Reply):
            return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        return answer

    server = RawTestServer(handle)
    await server.start_server()
    played.url = str(server.make_url("/"))
    yield played
    await server.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_each_word_arrives_before_the_next_one_is_there(
    stage: Stage, client: aiohttp.ClientSession
) -> None:
    async with client.post(stage.url, json={"message": "Hi"}) as reply:
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "text/event-stream"
        assert reply.headers["X-Conversation-Id"] == "c1"
        for text in ("one ", "two ", "three"):
            stage.word(text)
            event = await reply.content.readuntil(b"\n\n")
            assert event == b'event: token\ndata: {"text":"%s"}\n\n' % text.encode()
        stage.end("one two three")
        usage, final = SseParser().feed(await reply.read())
    assert (usage.name, final.name) == ("usage", "final")
    assert final.json["text"] == "one two three"
    assert final.json["model"] == "Mock/gpt-4o"


async def test_one_json_instead_of_a_stream(stage: Stage, client: aiohttp.ClientSession) -> None:
    stage.word("one")
    stage.end("one")
    async with client.post(stage.url, json={"message": "Hi", "stream": False}) as reply:
        assert reply.status == 200
        value = await reply.json()
    assert (value["text"], value["conversationId"], value["finishReason"]) == ("one", "c1", "stop")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ('{"type":"illegal_model_request","info":"Mock|x"}', 403, "model_not_available"),
        ("something", 502, "answer_failed"),
        (None, 502, "answer_failed"),
    ],
)
async def test_no_answer(
    stage: Stage, client: aiohttp.ClientSession, error: str | None, status: int, code: str
) -> None:
    if error is not None:
        stage.log.append(SseEvent.message({"error": error}, "error").raw)
    stage.log.close()
    async with client.post(stage.url, json={"message": "Hi", "stream": False}) as reply:
        assert (reply.status, (await reply.json())["code"]) == (status, code)
    async with client.post(stage.url, json={"message": "Hi"}) as reply:
        (event,) = SseParser().feed(await reply.read())
    assert (event.name, event.json["code"], event.json["requestId"]) == ("error", code, "r1")


async def test_a_conversation_goes_on_after_its_last_message(
    stage: Stage, client: aiohttp.ClientSession
) -> None:
    stage.history = HISTORY
    stage.end("x")
    async with client.post(stage.url, json={"message": "And?", "conversationId": "c1"}) as reply:
        assert reply.status == 200
    (body,) = stage.started
    assert (body["conversationId"], body["parentMessageId"]) == ("c1", "last")
    assert (body["endpoint"], body["model"]) == ("Mock", "gpt-4o")


async def test_a_conversation_that_is_not_there(stage: Stage, client: aiohttp.ClientSession) -> None:
    async with client.post(stage.url, json={"message": "And?", "conversationId": "c1"}) as reply:
        assert (reply.status, (await reply.json())["code"]) == (404, "conversation_not_found")
    assert not stage.started


async def test_a_refusal_has_its_own_status(stage: Stage, client: aiohttp.ClientSession) -> None:
    stage.refusal = Refused(429, "quota_exceeded", "used up")
    async with client.post(stage.url, json={"message": "Hi"}) as reply:
        assert (reply.status, (await reply.json())["code"]) == (429, "quota_exceeded")


async def test_a_client_that_leaves(stage: Stage, client: aiohttp.ClientSession) -> None:
    reply = await client.post(stage.url, json={"message": "Hi"})
    stage.word("one")
    await reply.content.readuntil(b"\n\n")
    reply.close()
    for _ in range(200):
        stage.word("more")
        if stage.left.is_set():
            break
        await asyncio.sleep(0.01)
    assert stage.left.is_set()
    assert not stage.log.closed
