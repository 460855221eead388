"""Attacks on access tokens, and the rotation of the keys that sign them, against running servers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.e2e.people import Person, call, login, post, register
from tests.e2e.processes import AUTH_SECRET, ROOT, Running, geko_environment, running

ME = "/v1/auth/me"
JWKS = "/v1/auth/jwks.json"
MINE = Ed25519PrivateKey.generate()
MY_RSA = generate_private_key(65537, 2048)


def segment(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def unsigned(head: object, claims: object, signature: bytes = b"") -> str:
    return f"{segment(head)}.{segment(claims)}.{segment(signature)}"


def hs256(head: dict[str, Any], claims: object, secret: bytes) -> str:
    signed = f"{segment(head)}.{segment(claims)}"
    return f"{signed}.{segment(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def claims_of(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


def pem_of(public: dict[str, str]) -> bytes:
    content: bytes = jwt.PyJWK(public).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return content


def well_signed(claims: dict[str, Any], **header: Any) -> str:
    return jwt.encode(claims, AUTH_SECRET, algorithm="HS256", headers=header)


NOW = time.time()
Change = Callable[[dict[str, Any]], str]

# Signed with the right secret: only what they say is wrong.
WRONG_CONTENT: dict[str, Change] = {
    "expired": lambda c: well_signed(c | {"exp": NOW - 10}),
    "not valid yet": lambda c: well_signed(c | {"nbf": NOW + 3600}),
    "issued in the future": lambda c: well_signed(c | {"iat": NOW + 3600, "exp": NOW + 7200}),
    "without an end": lambda c: well_signed({k: v for k, v in c.items() if k != "exp"}),
    "endless": lambda c: well_signed(c | {"exp": float("inf")}),
    "ten years": lambda c: well_signed(c | {"exp": NOW + 10 * 365 * 86_400}),
    "another audience": lambda c: well_signed(c | {"aud": "other"}),
    "also another audience": lambda c: well_signed(c | {"aud": ["geko", "other"]}),
    "another issuer": lambda c: well_signed(c | {"iss": "https://evil.example"}),
    "another type": lambda c: well_signed(c | {"type": "refresh"}),
    "another role": lambda c: well_signed(c | {"role": "root"}),
    "an object as subject": lambda c: hs256(
        {"alg": "HS256", "typ": "JWT"}, c | {"sub": {"$ne": None}}, AUTH_SECRET.encode()
    ),
    "jku": lambda c: well_signed(c, jku="https://evil.example/jwks.json"),
    "x5u": lambda c: well_signed(c, x5u="https://evil.example/cert"),
    "crit": lambda c: well_signed(c, crit=["exp"]),
    "a kid": lambda c: well_signed(c, kid="../../../../dev/null"),
    "another typ": lambda c: well_signed(c, typ="at+jwt"),
    "padding": lambda c: well_signed(c) + "=",
    "more padding": lambda c: well_signed(c) + "==",
    "padding inside": lambda c: well_signed(c).replace(".", "=.", 1),
    "a fourth part": lambda c: well_signed(c) + ".e30",
    "HS512": lambda c: jwt.encode(c, AUTH_SECRET, algorithm="HS512"),
    "another secret": lambda c: hs256({"alg": "HS256", "typ": "JWT"}, c, b"x" * 64),
    "an empty secret": lambda c: hs256({"alg": "HS256", "typ": "JWT"}, c, b""),
    "none": lambda c: unsigned({"alg": "none", "typ": "JWT"}, c),
    "None": lambda c: unsigned({"alg": "None"}, c).removesuffix("."),
    "nOnE with a signature": lambda c: unsigned({"alg": "nOnE"}, c, b"x" * 32),
    "no algorithm": lambda c: unsigned({"typ": "JWT"}, c, b"x" * 32),
    "nested": lambda c: unsigned(b"[" * 1000, c, b"x"),
    "huge": lambda c: well_signed(c | {"x": "x" * 5000}),
}


async def check_refused(client: aiohttp.ClientSession, token: str) -> None:
    for path in (ME, "/api/user"):
        answer = await call(client, "GET", path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status == 401, (path, token)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("name", WRONG_CONTENT)
async def test_what_is_wrong_in_a_token_of_the_shared_secret(alice: Person, geko: Running, name: str) -> None:
    await check_refused(alice.client, WRONG_CONTENT[name](claims_of(alice.token)))
    assert (await alice.call("GET", ME)).status == 200
    assert "Traceback" not in geko.log_text()


async def test_the_claims_that_are_changed_above_are_good_as_they_are(alice: Person) -> None:
    token = well_signed(claims_of(alice.token))
    answer = await call(alice.client, "GET", ME, headers={"Authorization": f"Bearer {token}"})
    assert answer.status == 200


async def test_with_a_shared_secret_nothing_is_published(alice: Person) -> None:
    answer = await call(alice.client, "GET", JWKS)
    assert answer.status == 200
    assert all(key["alg"] in ("EdDSA", "RS256") for key in answer.json["keys"])


@dataclass
class Pair:
    """Two instances on one database that sign with EdDSA."""

    one: Running
    two: Running
    environment: dict[str, str]

    def keys(self, *arguments: str) -> str:
        """Run `geko keys …`; returns what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "geko_proxy", "keys", *arguments],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **self.environment},
            cwd=self.one.log.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def pair(e2e_dsn: str, stand_in: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    environment = geko_environment(e2e_dsn, stand_in.url, GEKO_AUTH_SIGNING="EdDSA", GEKO_AUTH_JWT_SECRET="")
    one, two = (tmp_path_factory.mktemp("signed") / "log" for _ in range(2))
    with (
        running(["geko_proxy", "serve"], environment, one) as first,
        running(["geko_proxy", "serve"], environment, two) as second,
    ):
        yield Pair(first, second, environment)


@pytest.fixture
async def clients(pair: Pair) -> AsyncIterator[tuple[aiohttp.ClientSession, aiohttp.ClientSession]]:
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                aiohttp.ClientSession(server.url, cookie_jar=aiohttp.DummyCookieJar())
            )
            for server in (pair.one, pair.two)
        ]
        yield one, two


@pytest.fixture
async def carol(clients: tuple[aiohttp.ClientSession, aiohttp.ClientSession]) -> Person:
    """Signed in at the first instance."""
    return await register(clients[0], f"carol{time.monotonic_ns()}@example.org", "Carol")


async def published(client: aiohttp.ClientSession) -> list[dict[str, str]]:
    answer = await call(client, "GET", JWKS)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    found: list[dict[str, str]] = answer.json["keys"]
    return found


async def status_at(client: aiohttp.ClientSession, token: str) -> int:
    return (await call(client, "GET", ME, headers={"Authorization": f"Bearer {token}"})).status


async def test_anybody_can_verify_by_the_published_keys(
    clients: tuple[aiohttp.ClientSession, aiohttp.ClientSession], carol: Person
) -> None:
    keys = {key["kid"]: key for key in await published(clients[1])}
    head = jwt.get_unverified_header(carol.token)
    key = keys[head["kid"]]
    assert head == {"alg": "EdDSA", "typ": "JWT", "kid": key["kid"]}
    assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}
    claims = jwt.decode(carol.token, jwt.PyJWK(key), audience="geko", issuer="geko")
    assert claims["workspaceId"] == carol.workspace_id
    assert await status_at(clients[1], carol.token) == 200


def forgeries(token: str, public: dict[str, str]) -> dict[str, str]:
    """Tokens that somebody can make who knows a good one and the published key."""
    claims, kid = claims_of(token), public["kid"]
    good = {"alg": "EdDSA", "typ": "JWT", "kid": kid}
    jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(MINE.public_key()))

    def by_me(**header: Any) -> str:
        return jwt.encode(claims, MINE, algorithm="EdDSA", headers={"kid": kid, **header})

    found = {
        "my own key under its name": by_me(),
        "my key in the header": by_me(jwk=jwk),
        "my key's address": by_me(jku="https://evil.example/jwks.json"),
        "my certificate": by_me(x5c=["MIIB"]),
        "my RSA key": jwt.encode(claims, MY_RSA, algorithm="RS256", headers={"kid": kid}),
        "the old shared secret": well_signed(claims),
        "the shared secret under its name": well_signed(claims, kid=kid),
        "none under its name": unsigned({**good, "alg": "none"}, claims),
        "its signature, other claims": ".".join(
            [
                token.split(".")[0],
                segment(claims | {"role": "owner", "exp": claims["exp"] + 1}),
                token.split(".")[2],
            ]
        ),
        "its signature, another header": ".".join([segment({**good, "a": 1}), *token.split(".")[1:]]),
        "padding": token + "=",
        "percent": token + "%3D",
    }
    spellings = {
        "PEM": pem_of(public),
        "PEM without its end": pem_of(public).strip(),
        "JWK": json.dumps(public).encode(),
        "x": public["x"].encode(),
        "raw": base64.urlsafe_b64decode(public["x"] + "="),
        "kid": kid.encode(),
    }
    for name, secret in spellings.items():
        found[f"HS256 with the public key as {name}"] = hs256({**good, "alg": "HS256"}, claims, secret)
        found[f"HS256 with the public key as {name}, no kid"] = hs256({"alg": "HS256"}, claims, secret)
        found[f"EdDSA, signed by HS256 as {name}"] = hs256(good, claims, secret)
    evil: tuple[object, ...] = (
        "nobody", "../../../../dev/null", "/proc/self/environ", "' or 1=1 --", "x'; drop table signing_keys; --",
        "k" * 3000, "\0", "é", "", 7, None, True, {"$ne": None}, [kid],
    )  # fmt: skip
    for each in evil:
        rest = jwt.encode(claims, MINE, algorithm="EdDSA").partition(".")[2]
        found[f"kid {str(each)[:20]!r}"] = f"{segment({**good, 'kid': each})}.{rest}"
    return found


async def test_forgeries_of_a_published_key(
    clients: tuple[aiohttp.ClientSession, aiohttp.ClientSession], carol: Person, pair: Pair
) -> None:
    kid = jwt.get_unverified_header(carol.token)["kid"]
    (public,) = [key for key in await published(clients[0]) if key["kid"] == kid]
    for name, token in forgeries(carol.token, public).items():
        assert await status_at(clients[0], token) == 401, name
    assert await status_at(clients[0], carol.token) == 200
    assert "Traceback" not in pair.one.log_text()


async def test_one_changes_over_from_the_shared_secret_without_signing_anybody_out(
    clients: tuple[aiohttp.ClientSession, aiohttp.ClientSession], carol: Person, alice: Person
) -> None:
    """alice's server still signs with the secret: it knows the keys that others sign with already."""
    assert jwt.get_unverified_header(alice.token)["alg"] == "HS256"
    assert await status_at(alice.client, carol.token) == 200
    # these two have the secret no more; the refresh token is none of its business
    assert await status_at(clients[0], alice.token) == 401
    renewed = await post(clients[0], "/v1/auth/refresh", {"refreshToken": alice.refresh_token})
    assert renewed.status == 200
    assert await status_at(clients[1], renewed.json["accessToken"]) == 200


async def test_rotation_without_downtime_and_the_end_of_a_lost_key(
    clients: tuple[aiohttp.ClientSession, aiohttp.ClientSession], carol: Person, pair: Pair
) -> None:
    first = jwt.get_unverified_header(carol.token)["kid"]
    made = (await asyncio.to_thread(pair.keys, "rotate", "--now")).split()[1]
    token, kid = carol.token, first
    async with asyncio.timeout(60):
        while kid != made:  # until the new key signs, on whichever instance; nothing fails meanwhile
            fresh = await login(clients[1], carol.email)
            token, kid = fresh.token, jwt.get_unverified_header(fresh.token)["kid"]
            for client in clients:
                assert await status_at(client, fresh.token) == 200
                assert await status_at(client, carol.token) == 200
                assert {first, made} <= {key["kid"] for key in await published(client)}
            await asyncio.sleep(0.3)
    listed = await asyncio.to_thread(pair.keys, "list")
    states = {line.split()[0]: line.split()[2] for line in listed.splitlines()}
    assert (states[first], states[made]) == ("verifying", "signing")
    await asyncio.to_thread(pair.keys, "retire", first)
    for client in clients:
        async with asyncio.timeout(20):
            while await status_at(client, carol.token) != 401:
                await asyncio.sleep(0.05)
        assert await status_at(client, token) == 200
        assert first not in {key["kid"] for key in await published(client)}
    renewed = await post(clients[0], "/v1/auth/refresh", {"refreshToken": carol.refresh_token})
    assert await status_at(clients[1], renewed.json["accessToken"]) == 200


def test_the_key_that_signs_is_not_retired_by_mistake(pair: Pair) -> None:
    signing = [line for line in pair.keys("list").splitlines() if line.split()[2] == "signing"]
    with pytest.raises(AssertionError, match="rotate first"):
        pair.keys("retire", signing[0].split()[0])


def test_weak_keys_and_secrets_do_not_start(e2e_dsn: str, stand_in: Running, tmp_path: Path) -> None:
    weak = generate_private_key(65537, 1024)
    pem = weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "weak.pem").write_bytes(pem)
    for settings, words in (
        (
            {"GEKO_AUTH_SIGNING": "RS256", "GEKO_AUTH_SIGNING_KEYS": str(tmp_path)},
            "weak.pem is an RSA key of 1024",
        ),
        ({"GEKO_AUTH_JWT_SECRET": "changeme" * 8}, "auth.jwt_secret: too weak"),
        ({"GEKO_AUTH_JWT_SECRET": "please-change-this-secret-to-something-long!!"}, "placeholder"),
    ):
        environment = geko_environment(e2e_dsn, stand_in.url, **settings)
        for command in ("serve", "check-config"):
            done = subprocess.run(
                [sys.executable, "-m", "geko_proxy", command],
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 1
            assert words in done.stderr
