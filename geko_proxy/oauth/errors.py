"""The one error of a sign-in by a provider; its code decides what the person is told (client_api/oauth_pages)."""

from __future__ import annotations

from geko_proxy.errors import GekoError


class OAuthFailed(GekoError):
    """A sign-in that can't go on.

    code: a key of oauth_pages.FAILURES. detail: for the log only: what the provider sent is not shown to people.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def unavailable(detail: str) -> OAuthFailed:
    """The provider can't be reached, is too slow, or answers what nobody understands."""
    return OAuthFailed("provider_unavailable", detail)


def untrusted(detail: str) -> OAuthFailed:
    """The provider's answer fails a check that keeps forgers out."""
    return OAuthFailed("untrusted_reply", detail)


def refused(detail: str) -> OAuthFailed:
    """The provider refused what GEKO asked for: most often the client's settings are wrong there or here."""
    return OAuthFailed("provider_refused", detail)
