"""The published keys."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from geko_proxy.accounts.signing_keys import ALGORITHMS, KeyRing, generate, key_of
from geko_proxy.client_api.jwks import Jwks
from geko_proxy.services import Services
from tests.client_api.conftest import Call

SECRET_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "k", "oth"}


async def test_only_public_parts_also_of_the_next_key(services: Services, call: Call) -> None:
    now = time.time()
    keys = [key_of(generate(name), signs_from=now + 60) for name in ALGORITHMS]
    over = key_of(generate("EdDSA"), ends_at=now - 1)
    ring = KeyRing([*keys, over])
    signing_keys: Any = cast(Any, SimpleNamespace(jwks=ring.published))
    reply = await Jwks(replace(services, signing_keys=signing_keys)).get(*call())
    shown = msgspec.json.decode(reply.body or b"")["keys"]
    assert {key["kid"] for key in shown} == {key.kid for key in keys}
    assert all(not SECRET_MEMBERS & set(key) for key in shown)
    assert reply.headers["Cache-Control"] == "public, max-age=300"
