"""Secrets that serving refuses, and that random ones always pass."""

from __future__ import annotations

import base64
import re
import secrets
from pathlib import Path

import pytest

from geko_proxy.config.secrets import weakness

LIBRECHATS_EXAMPLE = Path("/opt/librechat/.env.example")


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "short",
        "s" * 64,
        "abcdefgh" * 8,
        "0123456789abcdef" * 4,
        "deadbeef" * 8,
        "changeme" * 8,
        "changeme-changeme-changeme-changeme",
        "change_me_please_change_me_please_change_me",
        "please-change-this-secret-to-something-long!!",
        "your-secret-key-goes-here-please-change",
        "geko-super-secret-key-for-production-1",
        "my-jwt-secret-for-development-only-do-not-use",
        "a-string-secret-at-least-256-bits-long",
        "PASSWORDpasswordPASSWORDpassword1234",
        "qwertyuiopasdfghjklzxcvbnm1234567890",
        "00000000-0000-0000-0000-000000000000",
        "12345678901234567890123456789012",
        "16f8c0ef4a5d391b26034086c628469d3f9f497f08163ab9b40137092f2909ef",
        "EAA5191F2914E30B9387FD84E254E4BA6FC51B4654968A9B0803B456A54B8418",
        "f34be427ebb29de8d88c107a71546019685ed8b241d8f2ed00c3df97ad2566f0",
        "e2341419ec3dd3d19b13a1a87fafcbfb",
        "DrhYf7zENyR6AlUCKmnz0eYASOQdl6zxH7s7MKFSfFCt",
    ],
)
def test_what_can_be_guessed_is_refused(secret: str) -> None:
    assert weakness(secret) is not None


def test_random_secrets_of_every_usual_spelling_pass() -> None:
    for _ in range(15):
        for secret in (
            secrets.token_hex(16),
            secrets.token_hex(32),
            secrets.token_urlsafe(32),
            base64.b64encode(secrets.token_bytes(48)).decode(),
            f"geko-prod-secret-{secrets.token_hex(32)}",
        ):
            assert weakness(secret) is None, secret


@pytest.mark.skipif(not LIBRECHATS_EXAMPLE.exists(), reason="needs LibreChat's source")
def test_no_value_of_librechats_example_passes() -> None:
    values = re.findall(r"^#? ?\w+=(\S{32,})$", LIBRECHATS_EXAMPLE.read_text("utf-8"), re.MULTILINE)
    long = [value for value in values if re.fullmatch(r"[A-Za-z0-9+/=_-]+", value)]
    assert long
    assert [value for value in long if weakness(value) is None] == []
