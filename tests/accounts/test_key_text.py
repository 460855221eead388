"""The form of API keys."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.accounts.key_text import PATTERN, InvalidKeyText, KeyText, checksum, to_base62


@given(st.uuids(), st.binary(min_size=32, max_size=32))
def test_a_key_survives_its_text(key_id: UUID, secret: bytes) -> None:
    key = KeyText(key_id, secret)
    text = key.encode()
    assert len(text) == 75
    assert PATTERN.fullmatch(text)
    assert KeyText.decode(text) == key
    assert KeyText.decode(text).hash() == key.hash()


def test_the_documented_example() -> None:
    key = KeyText(UUID(int=1), bytes(31) + b"\x02")
    text = "gk_" + "0" * 21 + "1_" + "0" * 42 + "2" + checksum("gk_" + "0" * 21 + "1_" + "0" * 42 + "2")
    assert key.encode() == text


@given(st.uuids(), st.integers(3, 74), st.sampled_from("0123456789abcXYZ_"))
def test_a_typo_is_found(key_id: UUID, place: int, character: str) -> None:
    text = KeyText.new(key_id).encode()
    wrong = text[:place] + character + text[place + 1 :]
    if wrong != text:
        with pytest.raises(InvalidKeyText):
            KeyText.decode(wrong)


@pytest.mark.parametrize("text", ["", "gk_", "gk_x", "x" * 75, "gk_" + "é" * 72, "gk_" + "0" * 72 + "\n"])
def test_other_texts_are_no_keys(text: str) -> None:
    with pytest.raises(InvalidKeyText):
        KeyText.decode(text)


@pytest.mark.parametrize(("key_id", "secret"), [(1 << 128, 1), (1, 1 << 256)])
def test_numbers_that_do_not_fit_are_no_keys(key_id: int, secret: int) -> None:
    body = f"gk_{to_base62(key_id, 22)}_{to_base62(secret, 43)}"
    with pytest.raises(InvalidKeyText):
        KeyText.decode(body + checksum(body))


def test_two_keys_differ_and_do_not_show_their_secret() -> None:
    first, second = KeyText.new(UUID(int=5)), KeyText.new(UUID(int=5))
    assert first.secret != second.secret
    assert not re.search("secret", repr(first))
