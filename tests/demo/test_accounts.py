"""Bearer tokens, refresh cookies, limiters: contract §2's findings that no recording shows."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any

import aiohttp
import pytest

from geko_proxy.demo.librechat import Limit, StandIn
from geko_proxy.demo.librechat.tokens import sign
from tests.demo.people import PASSWORD, Person, sign_up


def mint(payload: dict[str, Any], secret: str = "secret", algorithm: str = "HS256") -> str:
    """A token made by hand."""
    parts = [{"alg": algorithm, "typ": "JWT"}, payload]
    head = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts)
    digest = getattr(hashlib, algorithm.lower().replace("hs", "sha"), None)
    if digest is None:
        return f"{head}."
    signature = hmac.new(secret.encode(), head.encode(), digest).digest()
    return f"{head}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_minted_token_is_a_login(bob: Person, algorithm: str) -> None:
    bob.token = mint({"id": bob.id}, algorithm=algorithm)
    assert (await bob.call("GET", "/api/user")).json["email"] == "bob@example.com"


@pytest.mark.parametrize(
    ("payload", "settings", "status", "message"),
    [
        ({"exp": 1}, {}, 401, "jwt expired"),
        ({}, {"secret": "other"}, 401, "invalid signature"),
        ({}, {"algorithm": "none"}, 401, "jwt signature is required"),
        ({"id": None}, {}, 401, "Unauthorized"),
        ({"id": "0" * 24}, {}, 401, "Unauthorized"),
        ({"id": "alice"}, {}, 500, "An unknown error occurred."),
    ],
)
async def test_bad_tokens(
    bob: Person, payload: dict[str, Any], settings: dict[str, str], status: int, message: str
) -> None:
    bob.token = mint({"id": bob.id, **payload}, **settings)
    refused = await bob.call("GET", "/api/user")
    assert (refused.status, message) == (
        status,
        refused.json["message"] if refused.json else refused.raw.decode(),
    )


async def test_an_object_as_id_logs_in_as_the_first_admin(bob: Person) -> None:
    bob.token = mint({"id": {"$ne": None}})
    assert (await bob.call("GET", "/api/user")).json["role"] == "ADMIN"


async def test_an_expired_token_does_not_cut_its_stream(bob: Person) -> None:
    bob.token = mint({"id": bob.id, "exp": time.time() + 0.5})
    found = await bob.chat("[[tokens=70 delay_ms=10]]")
    assert found[-1]["final"]
    assert (await bob.call("GET", "/api/user")).json == {"message": "jwt expired"}


async def test_a_minted_refresh_cookie_needs_a_session(bob: Person) -> None:
    for secret, status in (("refresh-secret", 401), ("other", 403)):
        cookie = sign({"id": bob.id, "exp": time.time() + 60}, secret)
        refused = await bob.call("POST", "/api/auth/refresh", Cookie=f"refreshToken={cookie}")
        assert refused.status == status


async def test_a_used_email_changes_nothing_and_case_does_not_matter(
    bob: Person, lc: StandIn, http: aiohttp.ClientSession
) -> None:
    form = {"name": "Mallory", "email": "BOB@example.com", "password": "x" * 8, "confirm_password": "x" * 8}
    async with http.post(f"{lc.url}/api/auth/register", json={**form, "role": "ADMIN"}) as reply:
        assert reply.status == 200
    async with http.post(
        f"{lc.url}/api/auth/login", json={"email": "Bob@Example.com", "password": PASSWORD}
    ) as again:
        assert (await again.json())["user"]["role"] == "USER"


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "Missing credentials"),
        ({"email": "nobody@example.com", "password": "12345678"}, "Email does not exist."),
        ({"email": "nope", "password": "12345678"}, "email: Invalid email"),
        (
            {"email": "a@example.com", "password": "1"},
            "password: String must contain at least 8 character(s)",
        ),
        ({"email": {"$ne": None}, "password": "12345678"}, "email: Expected string, received object"),
    ],
)
async def test_refused_logins_are_404(
    lc: StandIn, http: aiohttp.ClientSession, form: dict[str, Any], message: str
) -> None:
    async with http.post(f"{lc.url}/api/auth/login", json=form) as reply:
        assert (reply.status, await reply.json()) == (404, {"message": message})


async def test_limiters_count_per_rightmost_forwarded_address(http: aiohttp.ClientSession) -> None:
    async with StandIn(login_limit=Limit(2, 60)) as lc:
        statuses = []
        for address in ("1.1.1.1", "9.9.9.9, 1.1.1.1", "1.1.1.1", "1.1.1.1, 2.2.2.2"):
            headers = {"X-Forwarded-For": address}
            async with http.post(f"{lc.url}/api/auth/login", json={}, headers=headers) as reply:
                statuses.append(reply.status)
        assert statuses == [404, 404, 429, 404]


async def test_racing_registrations_make_one_account(lc: StandIn, http: aiohttp.ClientSession) -> None:
    people = await asyncio.gather(*(sign_up(lc, http, "carol") for _ in range(5)))
    assert len({person.id for person in people}) == 1


async def test_deleting_oneself_ends_the_token(bob: Person) -> None:
    await bob.chat("[[tokens=1]]")
    assert (await bob.call("DELETE", "/api/user/delete")).json == {"message": "User deleted"}
    assert (await bob.call("GET", "/api/user")).json == {"message": "Unauthorized"}
