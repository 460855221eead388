"""Requests that two servers could read differently are refused; nothing hidden in them is done (RFC 9112 §11)."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.processes import Running

HIDDEN = b"GET /v1/auth/hidden-request HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b"0\r\n\r\n" + HIDDEN
POST = b"POST /v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

AMBIGUOUS = {
    "length twice": POST + b"Content-Length: 2\r\nContent-Length: 54\r\n\r\n{}" + HIDDEN,
    "length in a list": POST + b"Content-Length: 2, 2\r\n\r\n{}" + HIDDEN,
    "length with a sign": POST + b"Content-Length: +2\r\n\r\n{}" + HIDDEN,
    "length with an underscore": POST + b"Content-Length: 0_2\r\n\r\n{}" + HIDDEN,
    "length below zero": POST + b"Content-Length: -1\r\n\r\n{}" + HIDDEN,
    "length in hex": POST + b"Content-Length: 0x2\r\n\r\n{}" + HIDDEN,
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + BODY,
    "chunked not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + BODY,
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + BODY,
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
    "space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + BODY,
    "folded line": POST + b"X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + BODY,
    "bare line feeds": POST.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}" + HIDDEN,
    "bare line feed in a header": POST
    + b"X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
    + BODY,
    "bare carriage return": POST + b"X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + BODY,
    "null in a header": POST + b"X-A: b\x00c\r\nContent-Length: 2\r\n\r\n{}" + HIDDEN,
    "no header name": POST + b": chunked\r\nContent-Length: 2\r\n\r\n{}" + HIDDEN,
    "two hosts": POST.replace(b"Host: x\r\n", b"Host: x\r\nHost: evil\r\n") + b"Content-Length: 2\r\n\r\n{}",
    "chunk size with a sign": POST + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n" + BODY,
    "chunk size in garbage": POST + b"Transfer-Encoding: chunked\r\n\r\n2g\r\n{}\r\n" + BODY,
    "chunk without its end": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx" + BODY,
    "chunk size without bound": POST
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"f" * 20
    + b"\r\n{}\r\n"
    + BODY,
}


async def exchange(geko: Running, request: bytes) -> bytes:
    """All that comes back until the server closes, or is silent for a while."""
    host, port = geko.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    received = b""
    try:
        writer.write(request)
        async with asyncio.timeout(2):
            while data := await reader.read(65536):
                received += data
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return received


@pytest.mark.parametrize("case", AMBIGUOUS)
async def test_what_is_ambiguous_is_refused_whole(geko: Running, case: str) -> None:
    received = await exchange(geko, AMBIGUOUS[case])
    assert received.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), received
    assert received.count(b"HTTP/1.") == 1  # one answer, and the connection is closed
    assert b"hidden-request" not in received
    assert "hidden-request" not in geko.log_text()
    assert b"Traceback" not in received


async def test_what_is_no_http_gets_gekos_words(geko: Running) -> None:
    received = await exchange(geko, b"GET / HTTP/9.9\r\nX-Secret-Header: s3cret\r\nbad header\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert b"Server: geko" in head
    assert b'"code":"malformed_request"' in body
    assert b"s3cret" not in received
    assert b"aiohttp" not in received
    assert "s3cret" not in geko.log_text()


async def test_pipelined_requests_are_answered_in_order(geko: Running) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = await exchange(geko, one + one + last)
    assert received.count(b"HTTP/1.1 200") == 2
    assert received.count(b"HTTP/1.1 404") == 1
    assert received.index(b"HTTP/1.1 404") > received.rindex(b"HTTP/1.1 200")
