"""What a prompt will cost before anybody says so: pictures by their size, texts wherever they stand."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.prompt_estimate import (
    UNKNOWN_IMAGE_TOKENS,
    Size,
    agents_api_prompt,
    attached_image_tokens,
    image_tokens,
    long_texts,
    size_of,
    size_of_data,
)

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 64, 48)
GIF = b"GIF89a" + struct.pack("<HH", 64, 48)
VP8X = b"RIFF\0\0\0\0WEBPVP8X" + b"\0" * 8 + (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
VP8 = b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 10 + struct.pack("<HH", 64, 48)
VP8L = b"RIFF\0\0\0\0WEBPVP8L" + b"\0" * 4 + b"\x2f" + (63 | 47 << 14).to_bytes(4, "little") + b"\0" * 8
JPEG = (
    b"\xff\xd8\xff\xe0"
    + struct.pack(">H", 300)
    + b"\0" * 298
    + b"\xff\xc2\0\x11\x08"
    + struct.pack(">HH", 48, 64)
    + b"\0\0"
)


def data_url(raw: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    ("size", "model", "tokens"),
    [  # the examples of the providers' own guides, and the corners of their rules
        (Size(1024, 1024), "gpt-4o", 765),
        (Size(2048, 4096), "gpt-4o", 1105),
        (Size(64, 48), "o3", 255),
        (Size(20_000, 1), "gpt-4o", 85 + 170 * 4),
        (Size(1000, 1000), "claude-sonnet-4", 1334),
        (Size(200, 200), "anthropic.claude-v4", 54),
        (Size(8000, 8000), "claude-sonnet-4", 1600),
        (Size(384, 384), "gemini-2.5-pro", 258),
        (Size(1536, 768), "gemini-2.5-pro", 516),
        (None, "gpt-4o", UNKNOWN_IMAGE_TOKENS),
    ],
)
def test_a_picture_costs_what_its_provider_says(size: Size | None, model: str, tokens: int) -> None:
    assert image_tokens(size, model) == tokens


@pytest.mark.parametrize(
    "raw", [PNG, GIF, VP8X, VP8, VP8L, JPEG], ids=["png", "gif", "vp8x", "vp8", "vp8l", "jpeg"]
)
def test_sizes_stand_in_the_head_of_a_picture(raw: bytes) -> None:
    assert size_of_data(data_url(raw + b"\0" * 40)) == Size(64, 48)


@given(st.binary(max_size=120) | st.sampled_from([PNG, GIF, VP8X, VP8L, JPEG]).map(lambda raw: raw[:20]))
def test_a_broken_picture_has_no_size(raw: bytes) -> None:
    found = size_of_data(data_url(raw))
    assert found is None or min(found) >= 1


@pytest.mark.parametrize(
    "url", ["", "https://x.test/a.png", "data:image/png,x", "data:image/png;base64,a", "data:;base64,€"]
)
def test_what_is_no_data_has_no_size(url: str) -> None:
    assert size_of_data(url) is None


@pytest.mark.parametrize("side", [None, True, "64", 0, -5, 10**9, float("nan"), float("inf")])
def test_sizes_from_clients_are_not_believed(side: object) -> None:
    assert size_of(side, 48) is None
    assert size_of(64.0, 48) == Size(64, 48)


def test_attached_pictures_count_and_other_files_do_not() -> None:
    picture = {"type": "image/png", "width": 64, "height": 48}
    body = {
        "files": [picture, {"type": "image/jpeg"}, {"type": "text/plain", "width": 64, "height": 48}, "x"]
    }
    assert attached_image_tokens(body, "gpt-4o") == 255 + UNKNOWN_IMAGE_TOKENS
    assert attached_image_tokens({"files": {"0": picture}}, "gpt-4o") == attached_image_tokens({}, "") == 0


def test_an_agents_api_request_is_read_everywhere_and_pictures_are_no_text() -> None:
    url = data_url(PNG + b"\0" * 100_000)
    body = {
        "model": "agent_1",
        "stream": True,
        "instructions": "be kind",
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
            {
                "role": "user",
                "content": [{"type": "input_image", "image_url": url}, {"type": "text", "text": "ho"}],
            },
            {"role": "user", "content": [{"type": "image", "source": {"data": url.partition(",")[2]}}]},
            {"role": "tool", "content": url},
        ],
    }
    texts, tokens = agents_api_prompt(body, "gpt-4o")
    assert tokens == 4 * 255
    assert {"be kind", "hi", "ho", "user"} <= set(texts)
    assert "agent_1" not in texts
    assert max(map(len, texts)) < 100


def test_a_chat_message_is_read_but_for_its_ids() -> None:
    body = {"text": "hi", "promptPrefix": "p" * 50, "messageId": "m" * 36, "quotes": ["q" * 41, 7]}
    assert sorted(long_texts(body)) == ["hi", "p" * 50, "q" * 41]


def test_a_body_may_be_nested_as_deep_as_it_likes() -> None:
    deep: object = ["deep " * 20]
    for _ in range(5000):
        deep = {"content": [deep], "type": []}
    assert len(long_texts(deep)) == 1
    assert agents_api_prompt({"messages": deep}, "gpt-4o") == (["deep " * 20], 0)
