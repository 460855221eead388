"""The client is tested against raw sockets that answer byte for byte what the test says."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geko_proxy.errors import UpstreamBusy, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from geko_proxy.upstream import Upstream, UpstreamOptions

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Counts connections and keeps the request heads it has seen."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.script(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def head(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        return head


@asynccontextmanager
async def serving(script: Script, **options: int) -> AsyncIterator[tuple[Upstream, Server]]:
    server = Server(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    upstream = Upstream(f"http://127.0.0.1:{port}", UpstreamOptions(**options))
    try:
        yield upstream, server
    finally:
        await upstream.close()
        listener.close()


def replying(*replies: bytes, requests: int = 100) -> Script:
    """Answers each request on a connection with the next reply."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(requests):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(replies[min(number, len(replies) - 1)])
            await writer.drain()

    return script


async def test_a_connection_is_used_again_after_a_whole_reply() -> None:
    async with serving(replying(OK)) as (upstream, server):
        for _ in range(3):
            reply = await upstream.request("GET", "/")
            assert (reply.status, await reply.read(10)) == (200, b"ok")
        assert server.connections == 1
        assert upstream.in_use == 0


async def test_a_connection_with_an_unread_body_is_not_used_again() -> None:
    async with serving(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nxx")) as (upstream, server):
        for _ in range(2):
            (await upstream.request("GET", "/")).close()
        assert server.connections == 2


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_a_reply_that_can_be_read_in_two_ways_is_refused(reply: bytes) -> None:
    async with serving(replying(reply)) as (upstream, _):
        with pytest.raises(UpstreamError):
            await upstream.request("GET", "/")
        assert upstream.in_use == 0


async def test_bytes_after_the_reply_end_the_connection() -> None:
    async with serving(replying(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as (
        upstream,
        server,
    ):
        for _ in range(2):
            reply = await upstream.request("GET", "/")
            assert await reply.read(10) == b"ok"
            await asyncio.sleep(0.01)
        assert server.connections == 2


async def test_replies_without_a_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n"
    async with serving(replying(head, b"HTTP/1.1 304 Not Modified\r\n\r\n", OK)) as (upstream, server):
        assert await (await upstream.request("HEAD", "/")).read(99) == b""
        assert (await upstream.request("GET", "/")).status == 304
        assert await (await upstream.request("GET", "/")).read(99) == b"ok"
        assert server.connections == 1


async def test_interim_replies_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with serving(replying(early + OK)) as (upstream, _):
        reply = await upstream.request("GET", "/")
        assert (reply.status, reply.headers) == (200, [(b"Content-Length", b"2")])


async def test_a_body_that_ends_with_the_connection() -> None:
    async with serving(replying(b"HTTP/1.1 200 OK\r\n\r\nabc", requests=1)) as (upstream, _):
        assert await (await upstream.request("GET", "/")).read(99) == b"abc"


async def test_a_body_that_breaks_off_is_an_error() -> None:
    async with serving(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", requests=1)) as (
        upstream,
        _,
    ):
        reply = await upstream.request("GET", "/")
        assert await reply.read_chunk() == b"abc"
        with pytest.raises(UpstreamUnreachable):
            await reply.read_chunk()


async def test_a_lost_connection_is_replaced_for_safe_methods_only() -> None:
    server: Server

    async def once_then_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(OK)
        await server.head(reader)  # the second request on this connection is lost

    async with serving(once_then_close) as (upstream, server):
        for _ in range(2):
            assert await (await upstream.request("GET", "/")).read(9) == b"ok"
        assert server.connections == 2
        with pytest.raises(UpstreamUnreachable):
            await upstream.request("POST", "/", body=b"pay")
        assert sum(head.startswith(b"POST") for head in server.heads) == 1


async def test_an_old_connection_is_not_used() -> None:
    async with serving(replying(OK), keepalive_timeout_ms=20) as (upstream, server):
        await (await upstream.request("GET", "/")).read(9)
        await asyncio.sleep(0.05)
        await (await upstream.request("GET", "/")).read(9)
        assert server.connections == 2


async def test_time_limits() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await reader.read()

    async with serving(silent, idle_timeout_ms=30) as (upstream, _):
        reply = await upstream.request("GET", "/")
        with pytest.raises(UpstreamTimeout):
            await reply.read_chunk()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(mute, read_timeout_ms=30) as (upstream, _):
        with pytest.raises(UpstreamTimeout):
            await upstream.request("GET", "/")
        assert upstream.in_use == 0


async def test_waiting_for_a_connection_is_bounded_and_fair() -> None:
    async with serving(replying(OK), max_connections=1, connect_timeout_ms=200) as (upstream, server):
        held = await upstream.request("GET", "/")
        waiting = asyncio.create_task(upstream.request("GET", "/"))
        await asyncio.sleep(0.01)
        await held.read(9)
        assert (await waiting).status == 200
        assert server.connections == 1

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(mute, max_connections=1, connect_timeout_ms=30, read_timeout_ms=5000) as (upstream, _):
        holding = asyncio.create_task(upstream.request("GET", "/"))
        await asyncio.sleep(0.01)
        with pytest.raises(UpstreamBusy):
            await upstream.request("GET", "/")
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def test_nobody_listens() -> None:
    with pytest.raises(UpstreamUnreachable):
        await Upstream("http://127.0.0.1:1").request("GET", "/")


class Pieces:
    """A body that comes in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    async def read_chunk(self) -> bytes:
        await asyncio.sleep(0)
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.pieces.clear()


async def test_bodies_are_streamed_with_and_without_a_length() -> None:
    received: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"chunked" in head:
                received.append(await reader.readuntil(b"0\r\n\r\n"))
            else:
                received.append(await reader.readexactly(6))
            writer.write(OK)

    async with serving(script) as (upstream, _):
        await (await upstream.request("POST", "/", body=Pieces(b"abc", b"def"))).read(9)
        await (await upstream.request("POST", "/", body=Pieces(b"abc", b"def"), content_length=6)).read(9)
    assert received == [b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", b"abcdef"]


async def test_a_reply_before_the_end_of_the_upload_is_taken() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()

    class Endless(Pieces):
        async def read_chunk(self) -> bytes:
            await asyncio.sleep(0.001)
            return b"x" * 1000

    async with serving(script) as (upstream, server):
        assert (await upstream.request("POST", "/", body=Endless())).status == 413
        assert (await upstream.request("POST", "/", body=Endless())).status == 413
        assert server.connections == 2


async def test_a_slow_reader_stops_the_sender() -> None:
    written = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(500):
            writer.write(b"x" * 100_000)
            await writer.drain()
            written += 100_000

    async with serving(script) as (upstream, _):
        reply = await upstream.request("GET", "/")
        await asyncio.sleep(0.3)
        assert written < 30_000_000  # the rest waits in socket buffers or was not sent
        assert len(await reply.read(50_000_000)) == 50_000_000


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://x/path", "x"])
def test_only_origins_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        Upstream(url)


async def test_headers_cant_be_smuggled_in() -> None:
    upstream = Upstream("http://127.0.0.1:1")
    for target, headers in [("/a\r\nX: 1", ()), ("/", [(b"x", b"1\r\nHost: evil")]), ("/", [(b"x\n", b"1")])]:
        with pytest.raises(ValueError, match="line break"):
            await upstream.request("GET", target, headers)


@settings(max_examples=40, deadline=None)
@given(
    body=st.binary(max_size=3000), cuts=st.lists(st.integers(1, 4000), max_size=8), chunk=st.integers(1, 900)
)
def test_any_split_of_a_chunked_reply_gives_the_same_body(body: bytes, cuts: list[int], chunk: int) -> None:
    pieces = [body[i : i + chunk] for i in range(0, len(body), chunk)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded
    at = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for a, b in itertools.pairwise(at):
            writer.write(raw[a:b])
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async def run() -> None:
        async with serving(script) as (upstream, _):
            assert await (await upstream.request("GET", "/")).read(4000) == body

    asyncio.run(run())


async def test_an_error_says_whether_the_request_may_have_been_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read(1)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    with pytest.raises(UpstreamUnreachable) as refused:
        await Upstream("http://127.0.0.1:1").request("POST", "/")
    assert not refused.value.sent
    async with serving(answer_once) as (upstream, _):
        assert await (await upstream.request("POST", "/")).read(9) == b"ok"
        with pytest.raises(UpstreamUnreachable) as idle:
            await upstream.request("POST", "/")
        assert not idle.value.sent
        await (await upstream.request("POST", "/")).read(9)
        monkeypatch.setattr("geko_proxy.upstream.STALE_S", 0)  # as if it had been at work for that long
        with pytest.raises(UpstreamUnreachable) as busy:
            await upstream.request("POST", "/")
        assert busy.value.sent
    async with serving(hang_up) as (upstream, _):
        with pytest.raises(UpstreamUnreachable) as lost:
            await upstream.request("POST", "/")
        assert lost.value.sent
    async with serving(replying(b""), read_timeout_ms=20) as (upstream, _):
        with pytest.raises(UpstreamTimeout) as late:
            await upstream.request("POST", "/")
        assert late.value.sent
