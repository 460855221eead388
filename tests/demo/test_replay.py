"""Replays what was recorded from a real LibreChat v0.8.7 against the stand-in and compares the replies.

Where the two differ, the recording is right.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

import aiohttp
import pytest

from geko_proxy.demo.librechat import Limit, StandIn
from geko_proxy.demo.librechat.settings import MOCK, MOCK_USAGE
from tests.demo.comparison import BROWSER, Ids, Reply, compare
from tests.demo.recordings import FOLDER, Recording, recordings

# What cannot be replayed as it stands, and why. Everything else in the folder is.
NOT_REPLAYED = {
    "ui": "screenshots, no calls",
}
# The recorder waited here, or did something that it did not record.
PAUSES_S = {"31_status_running": 0.7, "34_messages_after_abort": 0.2, "36_leave_messages": 1.2}
IN_BACKGROUND = {"30_chat_second_stream": "35_abort_nothing", "30_run_stream": "34_messages_after_abort"}
ABORTED_BEFORE = {"35_abort_nothing": "28_chat_second"}
ENDPOINT_ADDED_BEFORE = "40_usage_asked_start"
JAR_COPIED_AFTER = {"b3_login_bob": "bob_old"}
REQUEST_NOT_RECORDED = "06_message_ip_limit"

IMAGE = b"\x89PNG\r\n\x1a\n".ljust(194, b".")
NOTE = b"A note for the model.\n" * 5


@dataclass
class Player:
    """A client that repeats recorded calls, with the jars, tokens and keys of the run."""

    lc: StandIn
    client: aiohttp.ClientSession
    ids: Ids = field(default_factory=Ids)
    jars: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    token: str = ""
    key: str = ""
    differences: list[str] = field(default_factory=list)
    background: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def play(self, recording: Recording) -> None:
        """Send one call and note the differences."""
        reply = await self._send(recording)
        self._remember(recording, reply)
        found = compare(recording, reply, self.ids)
        self.differences += [f"{recording.name}: {difference}" for difference in found]

    async def play_all(self, story: list[Recording]) -> None:
        """Play a story, with its pauses and the streams that ran beside other calls."""
        by_name = {recording.name: recording for recording in story}
        for recording in story:
            await asyncio.sleep(PAUSES_S.get(recording.name, 0))
            if recording.name in ABORTED_BEFORE:
                await asyncio.sleep(0.5)
                await self._abort(by_name[ABORTED_BEFORE[recording.name]])
            if task := self.background.pop(recording.name, None):
                await task
            if recording.name in IN_BACKGROUND:
                task = asyncio.get_running_loop().create_task(self.play(recording))
                self.background[IN_BACKGROUND[recording.name]] = task
            else:
                await self.play(recording)

    async def _abort(self, start: Recording) -> None:
        conversation = json.loads(start.reply_body)["conversationId"]
        aborting = Recording("abort", "POST", "/api/agents/chat/abort")
        aborting.headers = {"Authorization": "Bearer <jwt>", "Content-Type": "application/json"}
        aborting.body = json.dumps({"conversationId": conversation})
        assert (await self._send(aborting)).status == 200

    async def _send(self, recording: Recording) -> Reply:
        headers = {"User-Agent": BROWSER, "Accept": "*/*", **recording.headers}
        token = self.tokens.get(recording.jar_in or "", self.token)
        headers = {k: v.replace("<jwt>", token).replace("<api-key>", self.key) for k, v in headers.items()}
        if recording.jar_in is not None:
            jar = self.jars.get(recording.jar_in, {})
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        body = self.ids.translate(recording.body).encode() if recording.body is not None else None
        request = self.client.request(
            recording.method,
            self.lc.url + self.ids.translate(recording.target),
            headers=headers,
            data=_form(recording.form) if recording.form else body,
            skip_auto_headers=("Accept-Encoding",) if recording.form else ("Accept-Encoding", "Content-Type"),
            allow_redirects=False,
        )
        async with request as reply:
            read = b""
            try:
                async with asyncio.timeout(recording.max_time_s or 30):
                    async for chunk in reply.content.iter_any():
                        read += chunk
            except TimeoutError:
                assert recording.max_time_s, f"{recording.name} does not end"
                reply.close()
            raw = [(k.decode(), v.decode()) for k, v in reply.raw_headers]
            return Reply(reply.status, raw, read)

    def _remember(self, recording: Recording, reply: Reply) -> None:
        body = json.loads(reply.body) if reply.body.startswith(b'{"') else {}
        if recording.jar_out is not None:
            jar = dict(self.jars.get(recording.jar_in or "", {}))
            for name, value in reply.headers:
                if name == "Set-Cookie":
                    jar |= {k: morsel.value for k, morsel in SimpleCookie(value).items()}
            self.jars[recording.jar_out] = {k: v for k, v in jar.items() if v}
            if "token" in body:
                self.tokens[recording.jar_out] = self.token = body["token"]
        if recording.name in JAR_COPIED_AFTER and recording.jar_out is not None:
            self.jars[JAR_COPIED_AFTER[recording.name]] = self.jars[recording.jar_out]
        self.key = body.get("key", self.key)


def _form(fields: list[str]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, _, value in (part.partition("=") for part in fields):
        if not value.startswith("@"):
            form.add_field(name, value)
            continue
        filename, _, kind = value[1:].partition(";type=")
        data = NOTE if filename.endswith(".txt") else IMAGE
        form.add_field(name, data, filename=filename, content_type=kind)
    return form


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client without opinions."""
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(cookie_jar=jar, auto_decompress=False) as session:
        yield session


async def test_main_story(client: aiohttp.ClientSession) -> None:
    limits: Any = {
        "login_limit": Limit(7, 300),
        "register_limit": Limit(5, 3600),
        "upload_limit": Limit(50, 900),
    }
    async with StandIn(endpoints=(MOCK,), duplicate_delay_s=0.01, start_delay_s=0.02, **limits) as lc:
        player = Player(lc, client)
        story = recordings()
        split = next(at for at, r in enumerate(story) if r.name == ENDPOINT_ADDED_BEFORE)
        await player.play_all(story[:split])
        lc.endpoints = (MOCK, MOCK_USAGE)
        await player.play_all(story[split:])
    assert not player.differences, "\n".join(player.differences)


async def test_with_librechats_limits(client: aiohttp.ClientSession) -> None:
    limits: Any = {
        "login_limit": Limit(7, 300),
        "register_limit": Limit(5, 3600),
        "message_ip_limit": Limit(40, 60),
    }
    async with StandIn(concurrent_messages=2, ban_violations=True, start_delay_s=0.02, **limits) as lc:
        player = Player(lc, client)
        story = recordings("limits")
        chat = next(r for r in story if r.name == "03_concurrent_1")
        for recording in story:
            if recording.name == REQUEST_NOT_RECORDED:
                recording.method, recording.target, recording.jar_in = "POST", chat.target, chat.jar_in
                recording.headers = chat.headers
                recording.body = json.dumps(json.loads(chat.body or "") | {"text": "q [[tokens=1]]"})
                for _ in range(36):
                    await player._send(recording)
            await player.play(recording)
    assert not player.differences, "\n".join(player.differences)


async def test_with_librechats_balance(client: aiohttp.ClientSession) -> None:
    limits: Any = {"login_limit": Limit(7, 300), "register_limit": Limit(5, 3600)}
    async with StandIn(start_balance=3000, start_delay_s=0.02, **limits) as lc:
        player = Player(lc, client)
        await player.play_all(recordings("balance"))
    assert not player.differences, "\n".join(player.differences)


def test_nothing_recorded_is_left_out() -> None:
    assert {p.name for p in FOLDER.iterdir() if p.is_dir()} == {"limits", "balance", *NOT_REPLAYED}
