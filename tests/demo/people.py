"""Users of the stand-in for its own tests: sign up, chat, read streams."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from geko_proxy.demo.librechat import StandIn
from tests.demo.comparison import BROWSER, events

PASSWORD = "Correct-Horse-9"
ROOT = "00000000-0000-0000-0000-000000000000"


@dataclass
class Answer:
    """A reply, read."""

    status: int
    headers: Mapping[str, str]
    raw: bytes
    json: Any = None


@dataclass
class Person:
    """A signed-in user."""

    lc: StandIn
    client: aiohttp.ClientSession
    token: str
    cookie: str
    id: str

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request with token and browser User-Agent (overridable as User_Agent=…)."""
        sent = {"Authorization": f"Bearer {self.token}", "User-Agent": BROWSER}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Content-Type": "application/json"} if body is not None else {}
        data = io.BytesIO(json.dumps(body).encode()) if body is not None else None
        async with self.client.request(method, self.lc.url + path, data=data, headers=sent) as reply:
            raw = await reply.read()
        is_json = reply.content_type == "application/json" and raw.startswith((b"{", b"["))
        return Answer(reply.status, reply.headers, raw, json.loads(raw) if is_json else None)

    async def start(self, text: str, **fields: Any) -> str:
        """Start a chat on Mock/gpt-4o; returns the conversation id."""
        body: dict[str, Any] = {"text": text, "endpoint": "Mock", "endpointType": "custom", "model": "gpt-4o"}
        body |= {"parentMessageId": ROOT, "conversationId": None}
        started = await self.call("POST", "/api/agents/chat/Mock", {**body, **fields})
        assert started.json["status"] == "started", started
        return str(started.json["conversationId"])

    async def listen(self, conversation_id: str, query: str = "") -> list[Any]:
        """All events of the stream until it ends, without the SSE names."""
        read = await self.call("GET", f"/api/agents/chat/stream/{conversation_id}{query}")
        assert read.status == 200, read
        return [data for _, data in events(read.raw)]

    @asynccontextmanager
    async def subscribed(
        self, conversation_id: str, query: str = ""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An open subscription."""
        headers = {"Authorization": f"Bearer {self.token}", "User-Agent": BROWSER}
        url = f"{self.lc.url}/api/agents/chat/stream/{conversation_id}{query}"
        async with self.client.get(url, headers=headers) as reply:
            yield reply

    async def chat(self, text: str, **fields: Any) -> list[Any]:
        """Start a chat and listen to the end."""
        return await self.listen(await self.start(text, **fields))

    async def messages(self, conversation_id: str) -> Any:
        """The stored messages."""
        return (await self.call("GET", f"/api/messages/{conversation_id}")).json


async def sign_up(lc: StandIn, client: aiohttp.ClientSession, name: str) -> Person:
    """Register and log in."""
    email = f"{name}@example.com"
    form = {"name": f"{name} {name}", "email": email, "password": PASSWORD, "confirm_password": PASSWORD}
    async with client.post(f"{lc.url}/api/auth/register", json=form) as reply:
        assert reply.status == 200
    async with client.post(f"{lc.url}/api/auth/login", json={"email": email, "password": PASSWORD}) as reply:
        said = await reply.json()
        cookie = reply.cookies["refreshToken"].value
    return Person(lc, client, said["token"], f"refreshToken={cookie}", said["user"]["id"])


def text_of(found: list[Any]) -> str:
    """The deltas of a stream in one string."""
    deltas = [e["data"]["delta"]["content"][0] for e in found if e.get("event") == "on_message_delta"]
    return "".join(part["text"] for part in deltas)


def named(found: list[Any], name: str) -> list[Any]:
    """Data of the events of one name."""
    return [event["data"] for event in found if event.get("event") == name]
