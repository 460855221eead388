"""Password hashes: what fits, what is stored, and that unknown users cost the same work."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from geko_proxy.accounts import passwords
from geko_proxy.accounts.passwords import Cost, hash_password, needs_rehash, verify_password


@pytest.mark.parametrize("password", ["correct horse", "", "\ud800", "日本語" * 100, "a\0b"])
async def test_only_the_password_fits(password: str) -> None:
    stored = await hash_password(password)
    assert await verify_password(password, stored)
    assert not await verify_password(password + "x", stored)
    assert stored != await hash_password(password)


async def test_composed_and_decomposed_characters_are_the_same_password() -> None:
    assert await verify_password("Zu\u0308rich", await hash_password("Zürich"))


async def test_nobody_fits_without_a_stored_hash() -> None:
    assert not await verify_password("anything", None)


async def test_unknown_email_and_wrong_password_cost_the_same_work(
    monkeypatch: pytest.MonkeyPatch, cheap_passwords: Cost
) -> None:
    monkeypatch.setattr(passwords, "COST", cheap_passwords)  # the product's own
    stored = await hash_password("right")
    calls: list[dict[str, Any]] = []
    real = hashlib.scrypt

    def counted(secret: bytes, **parameters: Any) -> bytes:
        calls.append({"secret": secret, **parameters})
        return real(secret, **parameters)

    monkeypatch.setattr(hashlib, "scrypt", counted)
    assert not await verify_password("wrong", stored)
    assert not await verify_password("wrong", None)
    for call in calls:
        assert len(call.pop("salt")) == passwords.SALT_BYTES
    assert len(calls) == 2
    assert calls[0] == calls[1]
    assert calls[0]["n"] * calls[0]["r"] * 128 >= 32 * 1024**2


async def test_old_parameters_still_fit_and_ask_for_a_new_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = await hash_password("password")
    assert not needs_rehash(stored)
    monkeypatch.setattr(passwords, "COST", Cost(log_n=5, r=8, p=2))
    assert needs_rehash(stored)
    assert await verify_password("password", stored)


@pytest.mark.parametrize("stored", ["", "password", "$scrypt$ln=4,r=8$c2FsdA$a2V5", "$2b$10$abc"])
async def test_a_damaged_hash_is_an_error_that_does_not_show_it(stored: str) -> None:
    with pytest.raises(ValueError, match=r"^not a password hash of GEKO$"):
        await verify_password("password", stored)
