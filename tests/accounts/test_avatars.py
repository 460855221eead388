"""Pictures: which addresses and which images are taken."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.accounts.avatars import MAX_IMAGE_BYTES, SIZES, avatar_problem


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int = 2, height: int = 2, padding: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0\0\0\0\0\0\0" * 2)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"tEXt", b"x" * padding)
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def jpeg(width: int = 3, height: int = 4) -> bytes:
    quantisation = b"\xff\xdb" + struct.pack(">H", 67) + bytes(65)
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + quantisation + frame + b"\xff\xda\0\x02" + b"\0" * 9 + b"\xff\xd9"


GIF = b"GIF89a" + struct.pack("<HH", 5, 6) + bytes(3) + b";"


def webp(kind: bytes, content: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


WEBPS = {
    b"VP8X": bytes(4) + b"\x06\0\0" + b"\x07\0\0",
    b"VP8L": b"\x2f" + struct.pack("<I", 6 | 7 << 14) + bytes(9),
    b"VP8 ": bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 7, 8) + bytes(4),
}


def data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    "value",
    [
        "https://example.org/me.png",
        "https://example.org:8443/me?size=64",
        data_url("png", png()),
        data_url("jpeg", jpeg()),
        data_url("gif", GIF),
        *(data_url("webp", webp(kind, content)) for kind, content in WEBPS.items()),
    ],
)
def test_good_pictures(value: str) -> None:
    assert avatar_problem(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "me.png",
        "http://example.org/me.png",
        "javascript:alert(1)",
        "https://",
        "https://user:secret@example.org/me.png",
        'https://example.org/"onerror="alert(1)',
        "https://example.org/a b",
        "https://example.org/\u202egnp.exe",
        "https://[::1/me.png",
        "https://example.org:99999/",
        "https://example.org/" + "a" * 2100,
        data_url("svg+xml", b"<svg onload='alert(1)'/>"),
        data_url("png", b"<script>"),
        data_url("png", jpeg()),
        data_url("jpeg", png()),
        data_url("gif", GIF[:-1]),
        data_url("png", png(width=5000)),
        data_url("png", png(height=0)),
        data_url("jpeg", jpeg(width=2000)),
        data_url("png", png(padding=MAX_IMAGE_BYTES)),
        data_url("png", png())[:-3] + "=",
        "data:image/png;base64,",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/png," + "x" * 99,
    ],
)
def test_bad_pictures(value: str) -> None:
    assert avatar_problem(value)


def test_the_sizes() -> None:
    assert SIZES["png"](png(9, 8)) == (9, 8)
    assert SIZES["jpeg"](jpeg(3, 4)) == (3, 4)
    assert SIZES["gif"](GIF) == (5, 6)
    assert {SIZES["webp"](webp(kind, content)) for kind, content in WEBPS.items()} == {(7, 8)}


@given(st.sampled_from(sorted(SIZES)), st.binary(max_size=80), st.integers(0, 90))
def test_no_content_breaks_the_check(kind: str, noise: bytes, cut: int) -> None:
    real = {"png": png(), "jpeg": jpeg(), "gif": GIF, "webp": webp(b"VP8X", WEBPS[b"VP8X"])}[kind]
    for content in (noise, real[:cut] + noise, noise + real[cut:]):
        SIZES[kind](content)
        avatar_problem(data_url(kind, content))


@given(st.text())
def test_no_text_breaks_the_check(text: str) -> None:
    avatar_problem(text)
    avatar_problem(f"https://{text}")
    avatar_problem(f"data:image/png;base64,{text}")
