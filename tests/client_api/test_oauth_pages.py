"""What people are told."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from geko_proxy.client_api.oauth_pages import FAILURES, error_page, failure_location, redirect


@pytest.mark.parametrize("code", FAILURES)
def test_every_failure_has_a_page_or_librechats(code: str) -> None:
    location = failure_location(code, "acme", "abc12345")
    if code == "cancelled":
        assert location == "/login?redirect=false&error=auth_failed"
        return
    query = parse_qs(urlsplit(location).query)
    assert query == {"code": [code], "provider": ["acme"], "reference": ["abc12345"]}
    page = error_page(code, "Acme <b>", "abc12345")
    text = (page.body or b"").decode()
    assert "Acme <b>" not in text
    assert "{provider}" not in text
    assert "Reference: abc12345" in text
    assert 'href="/login?redirect=false"' in text


def test_an_unknown_code_is_told_too() -> None:
    text = (error_page("x", "Acme", "no reference").body or b"").decode()
    assert "The sign-in failed" in text
    assert "Reference" not in text


def test_a_redirect_is_not_kept() -> None:
    reply = redirect("/c/new")
    assert (reply.status, reply.headers["Location"], reply.headers["Cache-Control"]) == (
        303,
        "/c/new",
        "no-store",
    )
