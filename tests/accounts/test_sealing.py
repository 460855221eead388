"""What GEKO keeps for others can be read with the right key at the right place only."""

from __future__ import annotations

import pytest

from geko_proxy.accounts.sealing import BrokenSeal, Sealer


def test_what_is_sealed_opens_with_an_old_secret_too_but_nowhere_else() -> None:
    sealed = Sealer("a" * 32).seal("gho_token", "oauth_tokens/1")
    assert "gho_token" not in sealed
    assert Sealer("b" * 32, "a" * 32).open(sealed, "oauth_tokens/1") == "gho_token"
    for sealer, place in ((Sealer("b" * 32), "oauth_tokens/1"), (Sealer("a" * 32), "oauth_tokens/2")):
        with pytest.raises(BrokenSeal):
            sealer.open(sealed, place)


def test_the_same_secret_is_never_sealed_alike() -> None:
    sealer = Sealer("a" * 32)
    assert sealer.seal("x", "p") != sealer.seal("x", "p")
