"""Access tokens: what is in them, and everything that must not be accepted."""

from __future__ import annotations

import base64
from typing import Any
from uuid import uuid4

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.accounts.tokens import AccessTokens, Identity, InvalidToken
from geko_proxy.workspaces.roles import Role

SECRET = "s" * 32
NOW = 1_800_000_000.0
ME = Identity(uuid4(), uuid4(), uuid4(), Role.ADMIN, uuid4())


def build(**changes: Any) -> AccessTokens:
    return AccessTokens(SECRET, **({"issuer": "geko", "audience": "geko-api"} | changes))


TOKENS = build()


def claims() -> dict[str, Any]:
    token = TOKENS.issue(ME, ME.session_id, NOW)
    return dict(jwt.decode(token, options={"verify_signature": False}))


def sign(changed: dict[str, Any], **options: Any) -> str:
    return jwt.encode(changed, **({"key": SECRET, "algorithm": "HS256"} | options))


def segment(value: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")


def test_says_who_calls() -> None:
    identity = TOKENS.verify(TOKENS.issue(ME, ME.session_id, NOW), NOW)
    assert identity == Identity(ME.user_id, ME.tenant_id, ME.workspace_id, ME.role, ME.session_id, NOW + 900)


def test_has_the_claims_of_the_design() -> None:
    content = claims()
    assert content["sub"] == str(ME.user_id)
    assert (content["tenantId"], content["workspaceId"]) == (str(ME.tenant_id), str(ME.workspace_id))
    assert (content["role"], content["type"], content["sid"]) == ("admin", "access", str(ME.session_id))
    assert (content["iss"], content["aud"]) == ("geko", "geko-api")
    assert content["exp"] - content["iat"] == 900
    assert content["jti"] != claims()["jti"]


def test_ends_by_the_callers_clock_also_when_cached() -> None:
    tokens = build()
    token = tokens.issue(ME, ME.session_id, NOW)
    assert tokens.verify(token, NOW + 899).expires_at == NOW + 900
    for now in (NOW + 900, NOW + 10_000):
        with pytest.raises(InvalidToken, match="expired"):
            tokens.verify(token, now)


NAMES = ("sub", "tenantId", "workspaceId", "role", "type", "exp", "iat", "jti", "sid")
ODD: tuple[object, ...] = (None, "missing", 7, "x", "", [], {"$ne": None}, True)
# jti is any text, and a token issued long ago whose end is not over is no danger.
HARMLESS = (("jti", "x"), ("jti", ""), ("iat", 7))


@pytest.mark.parametrize(
    ("name", "value"), [(name, odd) for name in NAMES for odd in ODD if (name, odd) not in HARMLESS]
)
def test_a_missing_or_odd_claim_is_refused(name: str, value: object) -> None:
    changed = {key: content for key, content in claims().items() if key != name}
    if value != "missing":
        changed[name] = value
    with pytest.raises(InvalidToken):
        TOKENS.verify(sign(changed), NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "other"},
        {"aud": "other"},
        {"aud": None},
        {"type": "refresh"},
        {"role": "root"},
        {"iat": NOW + 3600},
        {"exp": NOW - 1},
    ],
)
def test_a_token_for_something_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        TOKENS.verify(sign(claims() | change), NOW)


@pytest.mark.parametrize("algorithm", ["none", "None", "HS512", "RS256", ""])
def test_other_algorithms_are_refused(algorithm: str) -> None:
    header, body = segment({"alg": algorithm, "typ": "JWT"}), segment(claims())
    signature = TOKENS.issue(ME, ME.session_id, NOW).rpartition(".")[2]
    for end in ("", signature):
        with pytest.raises(InvalidToken):
            TOKENS.verify(f"{header}.{body}.{end}", NOW)


def test_a_good_signature_of_another_hash_is_refused() -> None:
    secret = "s" * 64
    tokens = AccessTokens(secret, issuer="geko", audience="geko-api")
    with pytest.raises(InvalidToken):
        tokens.verify(sign(claims(), key=secret, algorithm="HS512"), NOW)


def test_another_secret_is_refused() -> None:
    with pytest.raises(InvalidToken):
        TOKENS.verify(sign(claims(), key="t" * 32), NOW)


@given(st.text() | st.from_regex(r"[\w-]{1,20}\.[\w-]{1,20}\.[\w-]{0,20}"))
def test_no_text_breaks_it(text: str) -> None:
    with pytest.raises(InvalidToken):
        TOKENS.verify(text, NOW)


@pytest.mark.parametrize("token", ["e" * 5000, f"{segment([[]] * 99)}.e30.e30", "." * 9])
def test_odd_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        TOKENS.verify(token, NOW)


@given(st.data())
def test_no_changed_character_is_accepted(data: st.DataObject) -> None:
    token = TOKENS.issue(ME, ME.session_id, NOW)
    # The last character of the signature carries bits that base64 ignores; the signature is then the same.
    place = data.draw(st.integers(0, len(token) - 2))
    letter = data.draw(st.sampled_from("ABCxyz019-_."))
    changed = token[:place] + letter + token[place + 1 :]
    if changed != token:
        with pytest.raises(InvalidToken):
            TOKENS.verify(changed, NOW)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        AccessTokens("short", issuer="geko", audience="geko-api")
