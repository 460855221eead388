"""LibreChat's own web page, pointed at GEKO: each call it makes gets the status and shape that LibreChat gave."""

from __future__ import annotations

import re
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp

from geko_proxy.headers import BROWSER_USER_AGENT
from tests.e2e.people import PASSWORD, Answer, Person, call, post

TRANSCRIPTS = Path(__file__).resolve().parents[3] / "shared" / "librechat-transcripts"
LINE = re.compile(r"^\s*\d+ms (\w+) (\S+) -> (\d+) \[\w+\] auth=(\S+).*? resp=(.*?) enc=", re.M)
CONVERSATION = "41fded85-d594-4882-913c-0a1b2c0befa9"

# answered by GEKO itself with another media type than the recording's
OWN_TYPES: dict[str, str] = {}


def recorded_calls() -> list[tuple[str, str, int, bool, str]]:
    text = (TRANSCRIPTS / "browser_requests.txt").read_text()
    found: dict[tuple[str, str, bool], tuple[int, str]] = {}
    for method, path, status, auth, kind in LINE.findall(text):
        if not path.startswith("/assets/"):
            found.setdefault((method, path, auth != "-"), (int(status), kind))
    return [(m, p, status, signed_in, kind) for (m, p, signed_in), (status, kind) in found.items()]


async def sign_up_on_the_page(client: aiohttp.ClientSession, email: str) -> tuple[Answer, str, str]:
    body = {"name": "Carol Browser", "username": "carol", "email": email, "password": PASSWORD,
            "confirm_password": PASSWORD}  # fmt: skip
    registered = await post(client, "/api/auth/register", body)
    assert (registered.status, registered.json) == (
        200,
        {"message": "Please check your email to verify your email address."},
    )
    answer = await post(client, "/api/auth/login", {"email": email, "password": PASSWORD})
    assert answer.status == 200, answer
    cookie = SimpleCookie(answer.headers["Set-Cookie"])["geko_refresh"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    return answer, answer.json["token"], cookie.value


async def test_every_call_of_the_page(client: aiohttp.ClientSession) -> None:
    calls = recorded_calls()
    assert len(calls) > 40
    _, token, cookie = await sign_up_on_the_page(client, f"carol{uuid4().hex}@example.org")
    carol = Person(client, "", token, cookie, "", "")
    conversation = await carol.start("from a browser [[tokens=5]]", endpoint="Mock")
    await carol.listen(conversation)
    wrong = []
    for method, path, status, signed_in, kind in calls:
        if path in ("/api/auth/register", "/api/auth/login") or (
            "/api/agents/chat/" in path and method == "POST"
        ):
            continue  # done above
        if "/chat/stream/" in path:
            continue
        headers = {"User-Agent": BROWSER_USER_AGENT, "Accept": "*/*"}
        if signed_in:
            headers |= {"Authorization": f"Bearer {token}", "Cookie": f"geko_refresh={cookie}"}
        body = None
        if path.endswith("context-projection"):
            headers["Content-Type"] = "application/json"
            body = b'{"conversationId":"%b","endpoint":"Mock","model":"gpt-4o"}' % conversation.encode()
        got = await call(client, method, path.replace(CONVERSATION, conversation), body, headers)
        media = got.headers.get("Content-Type", "-")
        if got.status != status or (kind != "-" and media.split(";")[0] != kind.split(";")[0]):
            wrong.append((method, path, status, kind, got.status, media, got.raw[:100]))
    assert not wrong


def shape(value: Any) -> Any:
    """Keys and types, recursively; lists by their first element."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


async def test_login_user_and_refresh_agree(client: aiohttp.ClientSession) -> None:
    email = f"dave{uuid4().hex}@example.org"
    answer, token, cookie = await sign_up_on_the_page(client, email)
    user = answer.json["user"]
    assert re.fullmatch(r"[0-9a-f]{24}", user["id"])
    assert (user["email"], user["name"], user["role"], user["provider"]) == (
        email,
        "Carol Browser",
        "USER",
        "local",
    )
    me = await Person(client, email, token, cookie, "", "").call("GET", "/api/user")
    assert (me.json["id"], me.json["email"], me.json["name"]) == (user["id"], email, "Carol Browser")

    headers = {"Cookie": f"geko_refresh={cookie}", "User-Agent": BROWSER_USER_AGENT}
    renewed = await call(client, "POST", "/api/auth/refresh", headers=headers)
    assert renewed.status == 200
    assert renewed.json["user"]["id"] == user["id"]
    assert renewed.json["token"].count(".") == 2
    # another tab renews with the same cookie at the same time
    assert (await call(client, "POST", "/api/auth/refresh", headers=headers)).json["token"]


async def test_session_over_is_200_without_a_token(client: aiohttp.ClientSession) -> None:
    for cookie in ("", "geko_refresh=nonsense", "refreshToken=eyJhbGciOiJIUzI1NiJ9.e30.x"):
        answer = await call(client, "POST", "/api/auth/refresh", headers={"Cookie": cookie})
        assert (answer.status, answer.raw) == (200, b"Refresh token not provided")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


async def test_logout_ends_everything(client: aiohttp.ClientSession) -> None:
    _, token, cookie = await sign_up_on_the_page(client, f"erin{uuid4().hex}@example.org")
    headers = {"Authorization": f"Bearer {token}", "Cookie": f"geko_refresh={cookie}"}
    out = await call(client, "POST", "/api/auth/logout", headers=headers)
    assert (out.status, out.json) == (200, {"message": "Logout successful"})
    assert "geko_refresh=;" in out.headers["Set-Cookie"]
    assert (await call(client, "GET", "/api/user", headers=headers)).status == 401
    again = await call(client, "POST", "/api/auth/refresh", headers=headers)
    assert again.raw == b"Refresh token not provided"


async def test_wrong_logins_look_alike(client: aiohttp.ClientSession) -> None:
    email = f"frank{uuid4().hex}@example.org"
    await sign_up_on_the_page(client, email)
    wrong = await post(client, "/api/auth/login", {"email": email, "password": "wrong-password"})
    unknown = await post(client, "/api/auth/login", {"email": f"no{email}", "password": "wrong-password"})
    assert (wrong.status, wrong.raw) == (unknown.status, unknown.raw)
    assert wrong.status == 404
    taken = {"name": "Frank", "email": email, "password": PASSWORD, "confirm_password": PASSWORD}
    assert (await post(client, "/api/auth/register", taken)).status == 200
    bad = await post(
        client, "/api/auth/register", {"name": "x", "email": "nope", "password": "1", "confirm_password": "2"}
    )
    recorded = (TRANSCRIPTS / "05_register_bad.txt").read_text().partition("### body\n")[2].strip()
    assert bad.status == 404
    assert bad.raw.decode() == recorded


async def test_assets_pages_and_caching(client: aiohttp.ClientSession) -> None:
    page = await call(client, "GET", "/c/new")
    assert page.status == 200
    assert b"<html" in page.raw
    assert "no-store" in page.headers["Cache-Control"]
    found = re.search(rb"(?:src|href)=\"(?:\./|/)?(assets/[^\"]+\.(?:js|css))\"", page.raw)
    assert found
    path = "/" + found[1].decode()
    asset = await call(client, "GET", path)
    assert asset.status == 200
    assert "max-age" in asset.headers["Cache-Control"]
    same = await call(client, "GET", path, headers={"If-None-Match": asset.headers["ETag"]})
    assert (same.status, same.raw) == (304, b"")
    part = await call(client, "GET", path, headers={"Range": "bytes=0-3", "Accept-Encoding": "identity"})
    assert (part.status, len(part.raw)) == (206, 4)
    head = await call(client, "HEAD", path)
    assert (head.status, head.raw) == (200, b"")
    assert int(head.headers["Content-Length"]) > 0
    assert (await call(client, "GET", "/assets/nothing.js")).status == 404
