"""Access tokens: what is in them, and everything that must not be accepted."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace
from typing import Any
from uuid import uuid4

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.accounts.signing_keys import ALGORITHMS, KeyRing, SigningKey, generate, key_of
from geko_proxy.accounts.tokens import AccessTokens, Identity, InvalidToken, UnknownKey
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
        {"iat": float("nan")},
        {"nbf": NOW + 3600},
        {"nbf": "now"},
        {"exp": NOW - 1},
        {"exp": NOW + 90_000},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"aud": ["geko-api"]},
        {"aud": ["geko-api", "other"]},
        {"sub": {"$ne": None}},
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
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCxyz019-_."))
    changed = token[:place] + letter + token[place + 1 :]
    if changed != token:
        with pytest.raises(InvalidToken):
            TOKENS.verify(changed, NOW)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        AccessTokens("short", issuer="geko", audience="geko-api")


@pytest.mark.parametrize("end", ["=", "==", "====", ".", " ", "\n", "%3d"])
def test_padding_and_other_additions_are_refused(end: str) -> None:
    token = TOKENS.issue(ME, ME.session_id, NOW)
    header, body, signature = token.split(".")
    for changed in (token + end, f"{header}{end}.{body}.{signature}", f"{header}.{body}{end}.{signature}"):
        with pytest.raises(InvalidToken):
            TOKENS.verify(changed, NOW)


def test_bits_that_base64_ignores_are_refused() -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = TOKENS.issue(ME, ME.session_id, NOW)
    accepted = []
    for letter in letters:
        try:
            TOKENS.verify(token[:-1] + letter, NOW)
            accepted.append(letter)
        except InvalidToken:
            continue
    assert accepted == [token[-1]]


KEYS: dict[str, SigningKey] = {name: key_of(generate(name)) for name in ALGORITHMS}


def asymmetric(algorithm: str, *keys: SigningKey, secret: str = "") -> AccessTokens:
    tokens = AccessTokens(secret, issuer="geko", audience="geko-api", signing=algorithm)
    tokens.use(KeyRing(keys or [KEYS[algorithm]]))
    return tokens


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_asymmetric_tokens_name_their_key(algorithm: str) -> None:
    tokens = asymmetric(algorithm)
    token = tokens.issue(ME, ME.session_id, NOW)
    assert jwt.get_unverified_header(token) == {
        "alg": algorithm,
        "typ": "JWT",
        "kid": KEYS[algorithm].kid,
    }
    assert tokens.verify(token, NOW) == replace(ME, expires_at=NOW + 900)
    public = jwt.PyJWK(KEYS[algorithm].jwk())
    options: Any = {"verify_exp": False, "verify_iat": False}
    assert jwt.decode(token, public, audience="geko-api", options=options)["type"] == "access"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_public_key_is_no_shared_secret(algorithm: str) -> None:
    """The attack: HS256 with the public key, in any of its spellings, as the secret."""
    key = KEYS[algorithm]
    spellings = [
        key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).rstrip(),
        key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        msgspec.json.encode(key.jwk()),
        key.kid.encode(),
        b"",
    ]
    if algorithm == "EdDSA":
        spellings.append(key.public.public_bytes(Encoding.Raw, PublicFormat.Raw))
    # the second also knows a shared secret, as while one changes over
    for tokens in (asymmetric(algorithm), asymmetric(algorithm, key, secret=SECRET)):
        for secret in spellings:
            for header in (
                {"alg": "HS256", "kid": key.kid},
                {"alg": algorithm, "kid": key.kid},
                {"alg": "HS256"},
            ):
                signed = f"{segment({'typ': 'JWT', **header})}.{segment(claims())}"
                mac = hmac.digest(secret, signed.encode(), hashlib.sha256)
                signature = base64.urlsafe_b64encode(mac).decode().rstrip("=")
                with pytest.raises(InvalidToken):
                    tokens.verify(f"{signed}.{signature}", NOW)


def test_a_key_is_used_with_its_own_algorithm_only() -> None:
    ring = KeyRing(KEYS.values())
    tokens = AccessTokens(SECRET, issuer="geko", audience="geko-api", signing="EdDSA")
    tokens.use(ring)
    for algorithm, key in KEYS.items():
        other = next(each for each in KEYS.values() if each is not key)
        assert key.private is not None
        good = jwt.encode(claims(), key.private, algorithm=algorithm, headers={"kid": key.kid})
        assert tokens.verify(good, NOW).user_id == ME.user_id
        for headers in ({"kid": other.kid}, None):
            with pytest.raises(InvalidToken):
                tokens.verify(jwt.encode(claims(), key.private, algorithm=algorithm, headers=headers), NOW)
    rsa = KEYS["RS256"]
    assert rsa.private is not None
    for algorithm in ("RS512", "PS256"):
        with pytest.raises(InvalidToken):
            tokens.verify(jwt.encode(claims(), rsa.private, algorithm, headers={"kid": rsa.kid}), NOW)
    for headers in ({"kid": KEYS["EdDSA"].kid}, {"kid": ""}, {"kid": "x"}):
        with pytest.raises(InvalidToken):
            tokens.verify(sign(claims(), headers=headers), NOW)


EVIL_KIDS: tuple[object, ...] = (
    "nobody",
    "../../../../dev/null",
    "/proc/self/environ",
    "' or '1'='1",
    "x'; drop table signing_keys; --",
    "| cat /etc/passwd",
    "https://evil.example/key",
    "k" * 2000,
    "\0",
    "é",
    "",
    7,
    None,
    True,
    {},
    [],
    {"$ne": None},
)


@pytest.mark.parametrize("kid", EVIL_KIDS, ids=repr)
def test_an_evil_kid_is_refused(kid: object) -> None:
    evil = generate("EdDSA")
    head = {"alg": "EdDSA", "typ": "JWT", "kid": kid}
    signed = f"{segment(head)}.{segment(claims())}"
    token = jwt.encode(claims(), evil, algorithm="EdDSA")
    with pytest.raises(InvalidToken):
        asymmetric("EdDSA").verify(f"{signed}.{token.rpartition('.')[2]}", NOW)


@pytest.mark.parametrize(
    "extra",
    [
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"jwk": KEYS["EdDSA"].jwk()},
        {"x5c": ["MIIB"]},
        {"x5t": "AAAA"},
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"typ": "at+jwt"},
        {"typ": None},
        {"exp": 1},
    ],
)
def test_a_header_with_anything_else_is_refused_even_if_well_signed(extra: dict[str, Any]) -> None:
    for algorithm, key in KEYS.items():
        tokens = asymmetric(algorithm)
        head = {"alg": algorithm, "typ": "JWT", "kid": key.kid, **extra}
        signed = f"{segment(head)}.{segment(claims())}".encode()
        signature = jwt.get_algorithm_by_name(algorithm).sign(signed, key.private)
        token = f"{signed.decode()}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
        with pytest.raises(InvalidToken):
            tokens.verify(token, NOW)


def test_a_retired_key_ends_its_tokens_also_those_verified_before() -> None:
    forgotten = []
    old, new = KEYS["EdDSA"], key_of(generate("EdDSA"))
    tokens = asymmetric("EdDSA", old)
    tokens.on_change(lambda: forgotten.append(1))
    token = tokens.issue(ME, ME.session_id, NOW)
    assert tokens.verify(token, NOW).user_id == ME.user_id
    tokens.use(KeyRing([old, replace(new, signs_from=NOW)]))
    assert tokens.verify(token, NOW).user_id == ME.user_id
    assert jwt.get_unverified_header(tokens.issue(ME, ME.session_id, NOW))["kid"] == new.kid
    tokens.use(KeyRing([new]))
    with pytest.raises(UnknownKey):
        tokens.verify(token, NOW)
    assert forgotten == [1, 1]


def test_a_token_does_not_outlive_its_key() -> None:
    tokens = asymmetric("EdDSA", replace(KEYS["EdDSA"], ends_at=NOW + 10))
    token = tokens.issue(ME, ME.session_id, NOW)
    assert tokens.verify(token, NOW).expires_at == NOW + 10
    for now in (NOW + 10, NOW + 11):
        with pytest.raises(InvalidToken):
            tokens.verify(token, now)


def test_tokens_of_the_shared_secret_hold_while_one_changes_over() -> None:
    token = TOKENS.issue(ME, ME.session_id, NOW)
    assert asymmetric("EdDSA", secret=SECRET).verify(token, NOW).user_id == ME.user_id
    with pytest.raises(InvalidToken):
        asymmetric("EdDSA").verify(token, NOW)
    before = build()  # signs with the secret, and knows the key already
    before.use(KeyRing([KEYS["EdDSA"]]))
    assert before.verify(asymmetric("EdDSA").issue(ME, ME.session_id, NOW), NOW).user_id == ME.user_id


async def test_a_token_of_a_new_key_is_looked_for() -> None:
    new = key_of(generate("EdDSA"))
    tokens, elsewhere = asymmetric("EdDSA"), asymmetric("EdDSA", new)
    token = elsewhere.issue(ME, ME.session_id, NOW)
    with pytest.raises(UnknownKey):
        await tokens.check(token, NOW)

    async def refresh() -> None:
        tokens.use(KeyRing([KEYS["EdDSA"], new]))

    tokens.refresh_by(refresh)
    assert (await tokens.check(token, NOW)).user_id == ME.user_id


def test_without_a_key_nothing_is_signed() -> None:
    tokens = AccessTokens("", issuer="geko", audience="geko-api", signing="RS256")
    with pytest.raises(RuntimeError, match="no key"):
        tokens.issue(ME, ME.session_id, NOW)
