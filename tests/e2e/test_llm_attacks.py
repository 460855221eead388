"""Hostile providers: replies that would be passed on without being counted, or that would hurt GEKO."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from tests.e2e.gateway import LlmSide, llm_side, toml
from tests.e2e.hostile import DONE, STREAM_HEAD, Hostile, delta, event, finish, hostile, usage, whole
from tests.e2e.people import Person, register
from tests.e2e.processes import Running
from tests.e2e.test_llm import settled

numbers = itertools.count(1)
WORDS = "river stone cloud " * 200  # 600 tokens


@pytest.fixture(scope="module")
def bad() -> Iterator[Hostile]:
    """The provider."""
    with hostile() as server:
        yield server


@pytest.fixture(scope="module")
def side(
    e2e_dsn: str, stand_in: Running, bad: Hostile, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlmSide]:
    """GEKO in front of it."""
    settings = toml({"Mock": bad.url})
    with llm_side(e2e_dsn, stand_in.url, settings, tmp_path_factory.mktemp("attack")) as found:
        yield found


@pytest.fixture
async def alice(side: LlmSide) -> AsyncIterator[Person]:
    """Somebody who calls."""
    async with aiohttp.ClientSession(side.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"att{os.getpid()}n{next(numbers)}@example.org", "Alice")


def in_pieces(text: str) -> bytes:
    """A stream's chunks, three words each."""
    words = text.split(" ")
    return b"".join(delta(" ".join(words[at : at + 3]) + " ") for at in range(0, len(words), 3))


def message(text: str, **more: Any) -> bytes:
    """A chat completion in one piece."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"id": "c1", "object": "chat.completion", "choices": [choice], **more}).encode()


STREAM = in_pieces(WORDS) + finish()
DEEP = b"data: " + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"\n\n"
HALF = b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n'


def as_deltas(make: Callable[[str], Any]) -> bytes:
    """A stream whose deltas are made in another way."""
    return (
        b"".join(event({"choices": [{"index": 0, "delta": make(f"{word} ")}]}) for word in WORDS.split())
        + finish()
    )


# What providers do, or could; each says the 600 tokens of WORDS.
STREAMS = {
    "comments between events": STREAM_HEAD
    + b": PROCESSING\n\n"
    + in_pieces(WORDS)
    + b": x\n\n"
    + finish()
    + DONE,
    "an error of null": STREAM_HEAD + STREAM.replace(b'"id"', b'"error": null, "id"') + DONE,
    "usage of nothing": STREAM_HEAD + STREAM + usage(0, 0) + DONE,
    "usage before the text": STREAM_HEAD + usage(8, 1) + STREAM + DONE,
    "usage of nothing before the text": STREAM_HEAD + usage(0, 0) + STREAM + DONE,
    "negative usage": STREAM_HEAD + STREAM + usage(-5, -600) + DONE,
    "usage beyond reason": STREAM_HEAD + STREAM + usage(10**18, 10**18) + DONE,
    "no end": STREAM_HEAD + STREAM,
    "an end with blanks": STREAM_HEAD + STREAM + b"data:[DONE] \n\n",
    "text after the end": STREAM_HEAD + STREAM + DONE + in_pieces("extra " * 50) + usage(1, 1),
    "carriage returns": STREAM_HEAD + (STREAM + DONE).replace(b"\n", b"\r"),
    "status 201": STREAM_HEAD.replace(b"200 OK", b"201 Created") + STREAM + DONE,
    "status 203": STREAM_HEAD.replace(b"200 OK", b"203 Odd") + STREAM + DONE,
    "content in parts": STREAM_HEAD
    + as_deltas(lambda word: {"content": [{"type": "text", "text": word}]})
    + DONE,
    "an old function": STREAM_HEAD + as_deltas(lambda word: {"function_call": {"arguments": word}}) + DONE,
    "many heads": b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + STREAM_HEAD + STREAM + DONE,
    "half a surrogate pair": STREAM_HEAD + STREAM + HALF + DONE,
}


@pytest.mark.parametrize("name", STREAMS)
async def test_whatever_a_provider_says_is_counted(
    side: LlmSide, bad: Hostile, alice: Person, e2e_dsn: str, name: str
) -> None:
    model = bad.answers(name, STREAMS[name])
    for streams in (True, False):
        reply = await side.call(alice, model, "hello", stream=streams)
        assert 200 <= reply.status < 300, reply
        assert b"stream_failed" not in reply.raw
        assert b"extra" not in reply.raw
    await alice.set_quota(1218 + 300)
    for streams in (True, False):
        cut = await side.call(alice, model, "hello", stream=streams)
        assert b'"finish_reason":"length"' in cut.raw
        await alice.set_quota(1218 + 609 + 300)
    found = [entry["tokens"] for entry in await settled(e2e_dsn, alice, 4)]
    assert all(608 <= tokens <= 611 for tokens in found), found  # also what came with the cut, and nobody got


PACKED = gzip.compress(message(WORDS))
UNREADABLE = {
    "no type": STREAM_HEAD.replace(b"Content-Type: text/event-stream\r\n", b"") + STREAM + DONE,
    "another type": STREAM_HEAD.replace(b"event-stream", b"plain") + STREAM + DONE,
    "not the type it says": STREAM_HEAD.replace(b"text/event-stream", b"application/json") + STREAM + DONE,
    "html": whole("text/html", b"<h1>Welcome</h1>"),
    "compressed": whole("application/json", PACKED, more=b"Content-Encoding: gzip\r\n"),
    "a compressed stream": STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + PACKED,
    "a list": whole("application/json", b"[]" * 3),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_can_not_be_counted_is_not_passed_on(
    side: LlmSide, bad: Hostile, alice: Person, e2e_dsn: str, name: str
) -> None:
    model = bad.answers(name, UNREADABLE[name])
    for streams in (True, False):
        reply = await side.call(alice, model, "hello", stream=streams)
        assert (reply.status, reply.json["error"]["code"]) == (502, "provider_error"), reply
        assert reply.headers["x-should-retry"] == "false"  # it may be billed
        assert b"river" not in reply.raw
    found = await settled(e2e_dsn, alice, 2)
    assert all(entry["tokens"] and entry["estimated"] for entry in found)  # the prompt


async def test_events_that_are_no_json_end_a_stream(side: LlmSide, bad: Hostile, alice: Person) -> None:
    for name, data in (("deep", DEEP), ("words", b"data: river\n\n")):
        model = bad.answers(name, STREAM_HEAD + in_pieces(WORDS) + data + finish() + DONE)
        reply = await side.call(alice, model, "hello", stream=True)
        assert b"stream_failed" in reply.events[-1].raw
        assert (await side.call(alice, model, "hello")).json["error"]["code"] == "provider_error"
    assert "Traceback" not in side.geko.log_text()
