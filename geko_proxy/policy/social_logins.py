"""What LibreChat's sign-in page is told about GEKO's identity providers (contract §5). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from geko_proxy.config import OAuthProviderSettings

BUTTONS: Final = {
    "google": "google",
    "github": "github",
    "oidc": "openid",
}  # a provider's kind → LibreChat's button


def social_logins(providers: Iterable[OAuthProviderSettings]) -> dict[str, Any]:
    """The members of GET /api/config that show a button for the first provider of each kind; none: no members."""
    shown: dict[str, OAuthProviderSettings] = {}
    for provider in providers:
        shown.setdefault(BUTTONS[provider.kind], provider)
    if not shown:
        return {}
    members: dict[str, Any] = {"socialLoginEnabled": True, "socialLogins": list(shown)}
    members |= {f"{button}LoginEnabled": True for button in shown}
    openid = shown.get("openid")
    if openid is not None:
        members["openidLabel"] = f"Continue with {openid.display_name}"
        members["openidImageUrl"] = openid.image_url or None  # None: LibreChat's own picture
    return members
