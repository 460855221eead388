"""A GEKO's settings, a LibreChat that fits them, and one with a fault."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from geko_proxy.config import (
    AuthSettings,
    DatabaseSettings,
    LibreChatSettings,
    ServerSettings,
    Settings,
)
from geko_proxy.demo.librechat.server import StandIn
from geko_proxy.demo.librechat.settings import Endpoint, Limit

SECRETS = {
    name: hashlib.sha256(name.encode()).hexdigest() for name in "jwt refresh shadow auth seal llm".split()
}
GOOD: dict[str, Any] = {
    "jwt_secret": SECRETS["jwt"],
    "jwt_refresh_secret": SECRETS["refresh"],
    "endpoints": (Endpoint("Mock", asks_usage=True),),
    "secure_image_links": True,
    "allowed_domains": ("shadow.geko.invalid",),
    "duplicate_delay_s": 0.0,
    "capabilities": ("artifacts", "tools"),
    "says": {"serverDomain": "https://chat.example.org"},
    "permissions": {
        "MULTI_CONVO": {"USE": False},
        "REMOTE_AGENTS": {"USE": False, "CREATE": False, "SHARE": False, "SHARE_PUBLIC": False},
    },
    "login_limit": Limit(100_000, 300),
}


def librechat(**fault: Any) -> StandIn:
    """A LibreChat as it should be, but for what is given; `says` and `permissions` add to what is good."""
    for name in ("says", "permissions"):
        fault[name] = GOOD[name] | fault.get(name, {})
    return StandIn(**(GOOD | fault))


def settings_for(url: str, dsn: str) -> Settings:
    """A GEKO's settings that fit it."""
    return Settings(
        server=ServerSettings(public_url="https://chat.example.org"),
        librechat=LibreChatSettings(
            url=url,
            jwt_secret=SECRETS["jwt"],
            jwt_refresh_secret=SECRETS["refresh"],
            shadow_secret=SECRETS["shadow"],
        ),
        database=DatabaseSettings(url=dsn),
        auth=AuthSettings(jwt_secret=SECRETS["auth"], encryption_secret=SECRETS["seal"]),
    )


@pytest.fixture
async def good(dsn: str) -> AsyncIterator[Settings]:
    """The settings of a GEKO in front of a LibreChat without a fault."""
    async with librechat() as lc:
        yield settings_for(lc.url, dsn)


def changed(settings: Settings, section: str, **values: Any) -> Settings:
    """The settings with another value."""
    return replace(settings, **{section: replace(getattr(settings, section), **values)})
