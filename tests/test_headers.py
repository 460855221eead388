"""Allow-lists in both directions: what is not named does not pass."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from geko_proxy.exchange import Request
from geko_proxy.headers import (
    BROWSER_USER_AGENT,
    cookies_for_librechat,
    is_same_origin,
    reply_headers,
    request_headers,
)

CHROME = (
    b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"
)


def sent(*raw: tuple[bytes, bytes], filtered: bool = False, **overrides: str | None) -> dict[bytes, bytes]:
    request = Request("GET", "/", "", CIMultiDictProxy(CIMultiDict()))
    for name, value in overrides.items():
        request.set_header(name, value)
    headers = request_headers(
        request,
        raw,
        forwarded_for="192.0.2.7",
        forwarded_host="geko.example",
        request_id="r1",
        keep_conditionals=not filtered,
        keep_encoding=not filtered,
    )
    assert len({name for name, _ in headers}) == len(headers)
    return dict(headers)


@pytest.mark.parametrize(
    "name",
    ["Cookie", "Authorization", "X-Tenant-Id", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded",
     "X-Request-Id", "X-Correlation-Id", "Connection", "Upgrade", "Transfer-Encoding", "Host", "TE", "Expect",
     "Proxy-Authorization", "Origin", "Referer", "X-Anything"],
)  # fmt: skip
def test_a_clients_word_on_these_is_not_passed(name: str) -> None:
    assert b"evil" not in sent((name.encode(), b"evil")).values()


def test_what_geko_says_instead() -> None:
    headers = sent((b"X-Forwarded-For", b"1.2.3.4"))
    assert headers[b"x-forwarded-for"] == b"192.0.2.7"
    assert headers[b"x-forwarded-proto"] == b"http"
    assert headers[b"x-forwarded-host"] == b"geko.example"
    assert headers[b"x-request-id"] == b"r1"


def test_browsers_are_named_and_others_become_one() -> None:
    assert sent((b"User-Agent", CHROME))[b"user-agent"] == CHROME
    for agent in (b"curl/8.5.0", b"Python/3.11 aiohttp/3.14", b"", b"Mozilla/5.0"):
        assert sent((b"User-Agent", agent))[b"user-agent"] == BROWSER_USER_AGENT.encode()
    assert sent()[b"user-agent"] == BROWSER_USER_AGENT.encode()


def test_a_reply_that_is_filtered_must_come_whole_and_plain() -> None:
    asked = ((b"If-None-Match", b'"x"'), (b"If-Modified-Since", b"y"), (b"Accept-Encoding", b"gzip, br"))
    assert sent(*asked)[b"if-none-match"] == b'"x"'
    filtered = sent(*asked, filtered=True)
    assert filtered[b"accept-encoding"] == b"identity"
    assert not {b"if-none-match", b"if-modified-since"} & set(filtered)


def test_filters_set_and_take_out_headers() -> None:
    headers = sent((b"Accept", b"text/html"), (b"Range", b"bytes=0-1"), accept="application/json", range=None)
    assert headers[b"accept"] == b"application/json"
    assert b"range" not in headers
    with pytest.raises(ValueError, match="line break"):
        sent(accept="a\r\nX: b")


def test_cookies_pass_by_name() -> None:
    cookies = {
        "lang": "de",
        "refreshToken": "x",
        "token_provider": "openid",
        "geko_refresh": "y",
        "oauth_csrf": "z",
    }
    assert (
        cookies_for_librechat(cookies, {"refreshToken": "minted"})
        == "oauth_csrf=z; lang=de; refreshToken=minted"
    )
    assert cookies_for_librechat({"lang": "de; refreshToken=x"}) == ""


def test_reply_headers_pass_by_name() -> None:
    headers = reply_headers(
        [
            (b"content-type", b"text/html"),
            (b"Set-Cookie", b"refreshToken=secret; HttpOnly"),
            (b"Set-Cookie", b"oauth_session=1; Path=/api"),
            (b"Set-Cookie", b"oauth_csrf=2"),
            (b"Access-Control-Allow-Origin", b"*"),
            (b"X-RateLimit-Remaining", b"3"),
            (b"X-Powered-By", b"Express"),
            (b"Location", b"http://librechat:3080/login?x=1"),
        ],
        "http://librechat:3080",
    )
    assert headers.getall("Set-Cookie") == ["oauth_session=1; Path=/api", "oauth_csrf=2"]
    assert headers["Location"] == "/login?x=1"
    assert set(headers) == {"Content-Type", "Set-Cookie", "Location"}


def test_same_origin() -> None:
    assert is_same_origin(None, "geko.example")
    assert is_same_origin("https://GEKO.example", "geko.example")
    assert not is_same_origin("https://evil.example", "geko.example")
    assert not is_same_origin("null", "geko.example")
