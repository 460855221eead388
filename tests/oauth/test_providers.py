"""What is taken from providers' replies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.accounts.registration import NAME_LENGTH, text_problems
from geko_proxy.config import OAuthProviderSettings
from geko_proxy.oauth.errors import OAuthFailed
from geko_proxy.oauth.providers import ProviderTokens, checked_person, read_tokens, shown_name

TOKENS = ProviderTokens("a", None, None, "", None)
SETTINGS = OAuthProviderSettings(
    name="acme", kind="oidc", client_id="i", client_secret="s", allowed_domains=("acme.test",)
)


def test_token_members() -> None:
    found = read_tokens(
        {
            "access_token": "a",
            "token_type": "BEARER",
            "expires_in": 60,
            "refresh_token": "r",
            "scope": "openid",
        }
    )
    assert found == ProviderTokens("a", "r", 60, "openid", None)
    odd = read_tokens(
        {"access_token": "a", "token_type": "bearer", "expires_in": True, "refresh_token": "\n", "scope": 5}
    )
    assert odd == TOKENS


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"access_token": "a"},
        {"access_token": "", "token_type": "bearer"},
        {"access_token": "a\n", "token_type": "bearer"},
        {"access_token": "é", "token_type": "bearer"},
        {"access_token": "a" * 20_000, "token_type": "bearer"},
        {"access_token": "a", "token_type": None},
    ],
)
def test_what_is_no_bearer_token(members: dict[str, Any]) -> None:
    with pytest.raises(OAuthFailed):
        read_tokens(members)


def test_a_person() -> None:
    person = checked_person(SETTINGS, "https://id.test", "s", " Pat@ACME.test ", None, TOKENS)
    assert (person.email, person.name) == ("pat@acme.test", "pat")


@pytest.mark.parametrize(
    ("subject", "email", "code"),
    [
        ("", "p@acme.test", "untrusted_reply"),
        (None, "p@acme.test", "untrusted_reply"),
        ("a\x00", "p@acme.test", "untrusted_reply"),
        ("s", None, "no_email"),
        ("s", "pat", "no_email"),
        ("s", "p@acme.test\nBcc: x@x.test", "no_email"),
        ("s", "p@evil.test", "domain_not_allowed"),
        ("s", "p@sub.acme.test", "domain_not_allowed"),
        ("s", "p@evilacme.test", "domain_not_allowed"),
    ],
)
def test_people_who_are_none(subject: Any, email: Any, code: str) -> None:
    with pytest.raises(OAuthFailed) as found:
        checked_person(SETTINGS, "https://id.test", subject, email, "Pat", TOKENS)
    assert found.value.code == code


@given(st.text(max_size=200) | st.none() | st.integers())
def test_any_name_is_one_that_registration_takes(value: Any) -> None:
    name = shown_name(value)
    assert name == "" or text_problems(name, NAME_LENGTH) == []
