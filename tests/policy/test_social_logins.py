"""Buttons on LibreChat's sign-in page."""

from __future__ import annotations

from geko_proxy.config import OAuthProviderSettings
from geko_proxy.policy.discovery import filter_config
from geko_proxy.policy.social_logins import social_logins
from geko_proxy.workspaces.config import WorkspaceConfig


def entry(name: str, kind: str, **more: str) -> OAuthProviderSettings:
    return OAuthProviderSettings(name=name, kind=kind, client_id="i", client_secret="s", **more)  # type: ignore[arg-type]


def test_the_first_of_each_kind_has_the_button() -> None:
    listed = [
        entry("acme", "oidc", display_name="Acme", image_url="https://a.test/logo.png"),
        entry("github", "github"),
        entry("other", "oidc", display_name="Other"),
    ]
    assert social_logins(listed) == {
        "socialLoginEnabled": True,
        "socialLogins": ["openid", "github"],
        "openidLoginEnabled": True,
        "githubLoginEnabled": True,
        "openidLabel": "Continue with Acme",
        "openidImageUrl": "https://a.test/logo.png",
    }
    assert social_logins([]) == {}


def test_librechats_own_providers_never_show() -> None:
    theirs = {"googleLoginEnabled": True, "discordLoginEnabled": True, "socialLogins": ["google", "discord"]}
    found = filter_config(
        theirs,
        registration=True,
        public_url="https://chat.test",
        specs=None,
        config=WorkspaceConfig(),
        social=social_logins([entry("github", "github")]),
    )
    assert (found["googleLoginEnabled"], found["discordLoginEnabled"]) == (False, False)
    assert (found["githubLoginEnabled"], found["socialLogins"]) == (True, ["github"])
