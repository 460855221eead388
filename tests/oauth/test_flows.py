"""Flows: what binds them, and that only GEKO's own come back."""

from __future__ import annotations

import base64
import hashlib
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.accounts.sealing import Sealer
from geko_proxy.oauth.flows import MAX_COOKIE, TTL_S, Flows, Linker

FLOWS = Flows(Sealer("s" * 32))


def test_a_flow_comes_back_as_it_was() -> None:
    linker = Linker(uuid4(), uuid4(), uuid4())
    for flow in (FLOWS.begin("acme", "/c/new?a=b"), FLOWS.begin("acme", "/", linker)):
        cookie = FLOWS.pack(flow)
        assert FLOWS.unpack("acme", cookie) == flow
        assert not set(cookie) & set(' ",;\\')  # RFC 6265, 4.1.1
    assert len(FLOWS.pack(FLOWS.begin("a" * 32, "/" + "a" * 2047, linker))) <= MAX_COOKIE


def test_nothing_is_used_twice_and_the_challenge_is_the_verifiers_hash() -> None:
    one, two = FLOWS.begin("acme", "/"), FLOWS.begin("acme", "/")
    secrets = {one.state, one.nonce, one.verifier, two.state, two.nonce, two.verifier}
    assert len(secrets) == 6
    assert all(len(each) == 43 for each in secrets)  # 256 bits; RFC 7636, 4.1 wants 43 characters
    digest = hashlib.sha256(one.verifier.encode()).digest()
    assert one.challenge == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert one.answers(one.state)
    assert not any(one.answers(each) for each in (None, "", two.state, one.state[:-1], "é"))


def test_a_cookie_of_another_time_place_or_maker() -> None:
    flow = FLOWS.begin("acme", "/")
    cookie = FLOWS.pack(flow)
    assert FLOWS.unpack("acme", cookie, flow.expires_at - TTL_S + 1) == flow
    assert FLOWS.unpack("acme", cookie, flow.expires_at) is None
    assert FLOWS.unpack("google", cookie) is None
    assert Flows(Sealer("t" * 32)).unpack("acme", cookie) is None
    assert FLOWS.unpack("acme", FLOWS.sealer.seal("{}", "oauth_flow/acme")) is None
    assert FLOWS.unpack("acme", FLOWS.sealer.seal("{", "oauth_flow/acme")) is None


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda raw: base64.b64encode(raw).decode()))
def test_any_other_text_is_no_flow(cookie: str) -> None:
    assert FLOWS.unpack("acme", cookie) is None
