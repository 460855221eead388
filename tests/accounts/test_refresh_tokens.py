"""The form of refresh tokens and the chain of their successors."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.accounts.refresh_tokens import RefreshToken


@given(st.uuids(), st.uuids(), st.binary(min_size=32, max_size=32))
def test_encodes_and_decodes(tenant_id: object, session_id: object, secret: bytes) -> None:
    token = RefreshToken(tenant_id, session_id, secret)  # type: ignore[arg-type]  # st.uuids() gives UUIDs
    assert RefreshToken.decode(token.encode()) == token
    assert len(token.encode()) == 86


@given(st.text() | st.from_regex(r"\A[\w-]{86}\Z"))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    try:
        token = RefreshToken.decode(text)
    except ValueError:
        return
    assert len(token.secret) == 32


def test_first_tokens_and_successors_differ() -> None:
    token = RefreshToken.first(uuid4(), uuid4())
    assert token.hash() != RefreshToken.first(token.tenant_id, token.session_id).hash()
    one, two = token.successor(b"1" * 32), token.successor(b"2" * 32)
    assert len({token.hash(), one.hash(), two.hash()}) == 3
    assert one == token.successor(b"1" * 32)
    assert (one.tenant_id, one.session_id) == (token.tenant_id, token.session_id)
    assert len(one.secret) == 32


@pytest.mark.parametrize("text", ["", "a" * 85, "a" * 87, "ä" * 86, "a" * 85 + "=", "a" * 85 + "\n"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a refresh token"):
        RefreshToken.decode(text)


def test_a_token_has_one_spelling() -> None:
    text = RefreshToken.first(uuid4(), uuid4()).encode()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for letter in letters.replace(text[-1], ""):
        try:
            assert RefreshToken.decode(text[:-1] + letter).encode() == text[:-1] + letter
        except ValueError:
            continue
