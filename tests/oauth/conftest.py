"""A real provider on a loopback port, and what is needed to ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from geko_proxy.oauth.http import ProviderHttp
from tests.oidc_provider import ProviderState, running_provider


@pytest.fixture(scope="session")
def provider_server() -> Iterator[ProviderState]:
    with running_provider() as state:
        yield state


@pytest.fixture
def provider(provider_server: ProviderState) -> ProviderState:
    """The provider as it is at first."""
    provider_server.reset()
    return provider_server


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    """Impatient, and soon full."""
    opened = ProviderHttp(timeout_s=1, max_bytes=10_000)
    yield opened
    await opened.close()
