"""The header of an instance: only for the request that it was made for, and only with the shared secret."""

from __future__ import annotations

from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.peers.hop import MAX_LENGTH, Hop, HopSigner

SIGNER = HopSigner("a" * 64)
HOP = Hop(uuid4(), 1.5e9, "2001:db8::1", "chat.example.org", True, "0123abc", uuid4())
TARGET = "/api/agents/chat/stream/c?resume=true"
RAW = [(b"Authorization", b"Bearer t"), (b"Cookie", b"geko_refresh=x"), (b"User-Agent", b"b")]
VALUE = SIGNER.sign(HOP, "GET", TARGET, RAW).decode()


def test_what_was_signed_is_read() -> None:
    assert SIGNER.read(VALUE, "GET", TARGET, RAW) == HOP
    assert len(VALUE) < MAX_LENGTH
    assert (
        SIGNER.read(VALUE, "GET", TARGET, [(b"cookie", b"geko_refresh=x"), *RAW[:1]]) is None
    )  # their order
    assert SIGNER.read(VALUE, "GET", TARGET, [*RAW, (b"accept", b"*/*")]) == HOP  # others are not covered


def test_it_holds_for_one_request_and_one_secret() -> None:
    assert HopSigner("b" * 64).read(VALUE, "GET", TARGET, RAW) is None
    assert SIGNER.read(VALUE, "POST", TARGET, RAW) is None
    assert SIGNER.read(VALUE, "GET", TARGET + "&x", RAW) is None
    for other in ([], RAW[:1], RAW[1:], [(b"authorization", b"Bearer u"), RAW[1]], [*RAW, RAW[0]]):
        assert SIGNER.read(VALUE, "GET", TARGET, other) is None


@given(st.integers(0, len(VALUE) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_character_can_be_changed(at: int, new: str) -> None:
    changed = VALUE[:at] + new + VALUE[at + 1 :]
    assert (SIGNER.read(changed, "GET", TARGET, RAW) is not None) == (changed == VALUE)


@given(st.text(max_size=300))
def test_garbage_is_no_header(value: str) -> None:
    assert SIGNER.read(value, "GET", TARGET, RAW) is None
