"""All configured providers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from geko_proxy.config import OAuthProviderSettings
from geko_proxy.oauth.github import GitHubProvider
from geko_proxy.oauth.http import ProviderHttp
from geko_proxy.oauth.openid import OpenIdProvider
from geko_proxy.oauth.providers import Provider


class Providers:
    """The providers in the order of the configuration. Nothing is asked of them before somebody signs in."""

    def __init__(self, configured: Iterable[OAuthProviderSettings], http: ProviderHttp) -> None:
        self._http = http
        self._providers: dict[str, Provider] = {each.name: build(each, http) for each in configured}

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._providers.values())

    def get(self, name: str) -> Provider | None:
        """A provider by its name."""
        return self._providers.get(name)

    def first(self, kind: str) -> Provider | None:
        """The first provider of a kind: LibreChat's page has one button each."""
        return next((each for each in self if each.settings.kind == kind), None)

    async def close(self) -> None:
        """Closes the connections to all of them."""
        await self._http.close()


def build(settings: OAuthProviderSettings, http: ProviderHttp) -> Provider:
    """The provider of an entry."""
    if settings.kind == "github":
        return GitHubProvider(settings, http)
    return OpenIdProvider(settings, http)
