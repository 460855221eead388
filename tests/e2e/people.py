"""People who use GEKO over HTTP, as browsers and scripts do."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from geko_proxy.headers import BROWSER_USER_AGENT
from geko_proxy.sse import SseEvent, SseParser

PASSWORD = "Correct-Horse-9"
ROOT = "00000000-0000-0000-0000-000000000000"


@dataclass
class Answer:
    """A reply, read whole."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.raw)


@dataclass
class Person:
    """Somebody signed in."""

    client: aiohttp.ClientSession
    email: str
    token: str
    refresh_token: str
    workspace_id: str
    tenant_id: str
    cookies: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request with the bearer and a browser's User-Agent; underscores in header names become dashes."""
        sent = {"Authorization": f"Bearer {self.token}", "User-Agent": BROWSER_USER_AGENT}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = None
        if isinstance(body, bytes):
            data = body
            sent.setdefault("Content-Type", "application/json")
        elif body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        return await call(self.client, method, path, data, sent)

    async def post_chat(self, text: str, **fields: Any) -> Answer:
        """POST a chat message as LibreChat's page does."""
        body: dict[str, Any] = {
            "text": text,
            "sender": "User",
            "clientTimestamp": "2026-11-22T12:00:00",
            "isCreatedByUser": True,
            "parentMessageId": ROOT,
            "messageId": "2796c097-cfd6-4112-beed-8154559c3e33",
            "error": False,
            "endpoint": "MockUsage",
            "endpointType": "custom",
            "model": "gpt-4o-mini",
            "conversationId": None,
            "ephemeralAgent": {"mcp": [], "web_search": False, "file_search": False, "execute_code": False},
            **fields,
        }
        body = {name: value for name, value in body.items() if value is not ...}
        return await self.call("POST", f"/api/agents/chat/{body.get('endpoint') or ''}".rstrip("/"), body)

    async def start(self, text: str, **fields: Any) -> str:
        """Start an answer; returns its conversation id."""
        answer = await self.post_chat(text, **fields)
        assert answer.status == 200, answer
        assert answer.json["status"] == "started"
        return str(answer.json["conversationId"])

    @asynccontextmanager
    async def subscribed(
        self, conversation_id: str, query: str = ""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An open subscription to an answer."""
        headers = {"Authorization": f"Bearer {self.token}", "User-Agent": BROWSER_USER_AGENT}
        url = f"/api/agents/chat/stream/{conversation_id}{query}"
        async with self.client.get(url, headers=headers) as reply:
            yield reply

    async def listen(self, conversation_id: str, query: str = "") -> list[Any]:
        """The JSON of every event of an answer until it ends."""
        async with self.subscribed(conversation_id, query) as reply:
            assert reply.status == 200, await reply.text()
            return [event.json for event in SseParser().feed(await reply.read())]

    async def chat(self, text: str, **fields: Any) -> list[Any]:
        """Send a message and read its answer."""
        return await self.listen(await self.start(text, **fields))

    async def usage(self) -> dict[str, Any]:
        """The workspace's usage report."""
        answer = await self.call("GET", f"/v1/workspaces/{self.workspace_id}/usage")
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    async def set_quota(self, token_limit: int | None) -> None:
        """Change the monthly limit."""
        path = f"/v1/workspaces/{self.workspace_id}/quota"
        answer = await self.call("PUT", path, {"tokenLimit": token_limit})
        assert answer.status == 200, answer

    async def set_config(self, **config: Any) -> None:
        """Change what the workspace may use."""
        answer = await self.call("PUT", f"/v1/workspaces/{self.workspace_id}/config", config)
        assert answer.status == 200, answer


async def call(
    client: aiohttp.ClientSession,
    method: str,
    path: str,
    data: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request and read the reply."""
    body = io.BytesIO(data) if isinstance(data, bytes) else data
    async with client.request(method, path, data=body, headers=headers, allow_redirects=False) as reply:
        return Answer(reply.status, reply.headers.copy(), await reply.read())


async def post(client: aiohttp.ClientSession, path: str, body: Any, **headers: str) -> Answer:
    """POST JSON without signing in."""
    sent = {"Content-Type": "application/json", "User-Agent": BROWSER_USER_AGENT}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await call(client, "POST", path, json.dumps(body).encode(), sent)


async def register(client: aiohttp.ClientSession, email: str, name: str) -> Person:
    """A new tenant with its owner, signed in."""
    body = {"email": email, "password": PASSWORD, "name": name, "tenantName": f"{name} Ltd"}
    answer = await post(client, "/v1/auth/register", body)
    assert answer.status in (200, 201), answer
    return await login(client, email)


async def login(client: aiohttp.ClientSession, email: str, password: str = PASSWORD) -> Person:
    """Sign in over /v1."""
    answer = await post(client, "/v1/auth/login", {"email": email, "password": password})
    assert answer.status == 200, answer
    found = answer.json
    return Person(
        client,
        email,
        found["accessToken"],
        found["refreshToken"],
        found["workspace"]["id"],
        found["tenant"]["id"],
    )


def deltas(events: list[Any]) -> str:
    """The text of an answer, from its deltas."""
    found = []
    for event in events:
        if event.get("event") == "on_message_delta":
            found += [part.get("text", "") for part in event["data"]["delta"]["content"]]
    return "".join(found)


def read_events(raw: bytes) -> list[SseEvent]:
    """The events of a whole stream."""
    return SseParser().feed(raw)


async def invite(owner: Person, role: str, email: str, workspace_id: str | None = None) -> Person:
    """Somebody new in a workspace of the owner's, by an invitation; signed in there."""
    workspace_id = workspace_id or owner.workspace_id
    made = await owner.call("POST", f"/v1/workspaces/{workspace_id}/invitations", {"role": role})
    assert made.status == 201, made
    token = made.json["link"].rpartition("/")[2]
    body = {"email": email, "name": role.title(), "password": PASSWORD}
    answer = await post(owner.client, f"/v1/invitations/{token}/accept", body)
    assert answer.status == 201, answer
    found = answer.json
    assert found["role"] == role
    return Person(
        owner.client,
        email,
        found["accessToken"],
        found["refreshToken"],
        found["workspace"]["id"],
        found["tenant"]["id"],
    )
