"""The profile, as /v1 and LibreChat's own page see it, and an e-mail address changed by a real mail."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import aiohttp
import pytest

from tests.e2e.people import PASSWORD, Person, call, login, post, register
from tests.e2e.processes import Running, geko_environment, running

PROFILE = "/v1/auth/profile"
CONFIRM = f"{PROFILE}/email/confirm"
PICTURE = "https://example.org/zoe.png"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def mailing(e2e_dsn: str, stand_in: Running, home: Path) -> Iterator[Running]:
    """A GEKO that writes mails into a folder."""
    settings = {"GEKO_MAIL_TRANSPORT": "folder", "GEKO_SERVER_HOME": str(home)}
    settings["GEKO_SERVER_PUBLIC_URL"] = "http://geko.example"
    with running(
        ["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url, **settings), home / "log"
    ) as geko:
        yield geko


@pytest.fixture
async def zoe(mailing: Running) -> AsyncIterator[Person]:
    async with aiohttp.ClientSession(mailing.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"zoe{uuid4().hex}@example.org", "Zoe")


async def mail_to(home: Path, address: str, words: str) -> str:
    """The text of a mail, once it is there."""
    async with asyncio.timeout(20):
        while True:
            for file in (home / "mail").glob("*.eml"):
                mail: Any = message_from_bytes(file.read_bytes(), policy=policy.default)
                if mail["To"] == address and words in mail.get_content():
                    return str(mail.get_content())
            await asyncio.sleep(0.05)


async def test_librechats_page_shows_the_changed_profile(zoe: Person) -> None:
    change = {"name": "Zoë", "avatar": PICTURE, "language": "de", "timeZone": "Europe/Berlin"}
    changed = await zoe.call("PATCH", PROFILE, change)
    assert changed.status == 200
    assert changed.json == (await zoe.call("GET", PROFILE)).json
    shown = (await zoe.call("GET", "/api/user")).json
    page = await post(zoe.client, "/api/auth/login", {"email": zoe.email, "password": PASSWORD})
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    refreshed = await post(zoe.client, "/api/auth/refresh", {}, Cookie=cookie)
    for user in (shown, page.json["user"], refreshed.json["user"]):
        assert (user["name"], user["avatar"], user["email"]) == ("Zoë", PICTURE, zoe.email)
    bad = await zoe.call("PATCH", PROFILE, {"avatar": "javascript:alert(1)", "timeZone": "Mars"})
    assert (bad.status, set(bad.json["error"]["details"])) == (400, {"avatar", "timeZone"})


async def test_an_address_is_changed_by_the_link_in_a_mail(zoe: Person, home: Path) -> None:
    new = f"new-{zoe.email}"
    asked = await zoe.call(
        "POST", f"{PROFILE}/email", {"email": new, "password": PASSWORD}, Host="evil.example"
    )
    assert asked.status == 202
    text = await mail_to(home, new, "confirm")
    (token,) = re.findall(r"http://geko\.example/v1/auth/profile/email/confirm\?token=(\S+)", text)
    await mail_to(home, zoe.email, "asked to change")
    page = await call(zoe.client, "GET", f"{CONFIRM}?token={token}")
    assert (page.status, b"<form" in page.raw) == (200, True)
    assert (await zoe.call("GET", PROFILE)).json["email"] == zoe.email

    form = urlencode({"token": token}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    foreign = await call(zoe.client, "POST", CONFIRM, form, {**headers, "Origin": "https://evil.example"})
    assert foreign.status == 403
    done = await call(
        zoe.client, "POST", CONFIRM, form, {**headers, "Origin": str(zoe.client._base_url).rstrip("/")}
    )
    assert done.status == 200
    profile = (await zoe.call("GET", PROFILE)).json
    assert (profile["email"], profile["emailVerified"]) == (new, True)
    assert (await zoe.call("GET", "/api/user")).json["email"] == new
    assert (await call(zoe.client, "POST", CONFIRM, form, headers)).status == 400
    await login(zoe.client, new)
    old = await post(zoe.client, "/v1/auth/login", {"email": zoe.email, "password": PASSWORD})
    assert old.status == 401
    await mail_to(home, zoe.email, f"is {new} now")


async def test_without_mail_it_says_so(alice: Person) -> None:
    for path, body in (("/email", {"email": "x@example.org", "password": PASSWORD}), ("/email/verify", {})):
        answer = await alice.call("POST", PROFILE + path, body)
        assert (answer.status, answer.json["error"]["code"]) == (503, "mail_off")


async def test_a_picture_that_is_too_large(alice: Person) -> None:
    answer = await alice.call("PATCH", PROFILE, {"avatar": "data:image/png;base64," + "A" * 200_000})
    assert answer.status == 400
