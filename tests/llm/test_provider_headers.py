"""Headers to and from providers, and Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.llm.provider_headers import (
    MAX_RETRY_AFTER_S,
    REQUEST_HEADERS,
    ProviderHeaders,
    reply_headers,
    retry_after_s,
)

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
NAMES = st.sampled_from(
    [
        b"Authorization",
        b"X-Api-Key",
        b"Cookie",
        b"x-geko-user",
        b"Host",
        b"Accept",
        b"User-Agent",
        b"Anthropic-Beta",
    ]
)


@given(st.sampled_from(["openai", "anthropic"]), st.lists(st.tuples(NAMES, st.just(b"theirs"))))
def test_the_caller_s_own_go_on_only_by_the_list(api: str, raw: list[tuple[bytes, bytes]]) -> None:
    sent = ProviderHeaders(api, "sk-ours", {"user-agent": "ours"}).of_call(raw, "application/json")
    assert {name for name, value in sent if value == b"theirs"} <= REQUEST_HEADERS - {b"user-agent"}
    own = {name: value for name, value in sent if value != b"theirs"}
    assert own[b"user-agent"] == b"ours"
    assert own[b"accept-encoding"] == b"identity"
    if api == "openai":
        assert own[b"authorization"] == b"Bearer sk-ours"
    else:
        assert (own[b"x-api-key"], own[b"anthropic-version"]) == (b"sk-ours", b"2023-06-01")


def test_the_caller_s_version_of_the_api_counts_unless_the_settings_name_one() -> None:
    raw = [(b"Anthropic-Version", b"2024-01-01")]
    assert (b"anthropic-version", b"2024-01-01") in ProviderHeaders("anthropic", "k", {}).of_call(raw, "")
    own = {"anthropic-version": "2025-01-01"}
    sent = ProviderHeaders("anthropic", "k", own).of_call(raw, "")
    assert [value for name, value in sent if name == b"anthropic-version"] == [b"2025-01-01"]
    assert ProviderHeaders("openai", "", {}).of_call((), "") == [(b"accept-encoding", b"identity")]


def test_replies_lose_what_is_geko_s_own() -> None:
    raw = [
        (b"Content-Type", b"text/event-stream"),
        (b"X-RateLimit-Remaining-Tokens", b"5"),
        (b"x-request-id", b"req_1"),
        (b"Set-Cookie", b"__cf_bm=x"),
        (b"OpenAI-Organization", b"acme"),
        (b"Server", b"cloudflare"),
        (b"Location", b"https://elsewhere.test"),
        (b"Transfer-Encoding", b"chunked"),
    ]
    assert dict(reply_headers(raw)) == {
        "content-type": "text/event-stream",
        "x-ratelimit-remaining-tokens": "5",
        "x-request-id": "req_1",
    }


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"Retry-After", b"7")], 7.0),
        ([(b"retry-after-ms", b"1500"), (b"retry-after", b"7")], 1.5),
        ([(b"retry-after-ms", b"soon"), (b"retry-after", b"7")], 7.0),
        ([(b"Retry-After", b"Mon, 23 Nov 2026 12:00:30 GMT")], 30.0),
        ([(b"Retry-After", b"Mon, 23 Nov 2026 11:00:00 GMT")], 0.0),
        ([(b"Retry-After", b"99999999")], MAX_RETRY_AFTER_S),
        ([(b"Retry-After", b"Mon, 23 Nov 9999 11:00:00 GMT")], MAX_RETRY_AFTER_S),
        ([(b"Retry-After", b"-1")], None),
        ([(b"Retry-After", b"nan")], None),
        ([(b"Retry-After", b"inf")], None),
        ([(b"Retry-After", b"")], None),
        ([], None),
    ],
)
def test_retry_after(headers: list[tuple[bytes, bytes]], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW) == seconds


@given(st.sampled_from([b"retry-after", b"retry-after-ms"]), st.binary() | st.text().map(str.encode))
def test_whatever_stands_there_is_a_bounded_time_or_nothing(name: bytes, value: bytes) -> None:
    seconds = retry_after_s([(name, value)])
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S
