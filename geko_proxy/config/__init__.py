"""GEKO's settings: `load_settings` reads them, `Settings` holds them, `describe_settings` documents them."""

from geko_proxy.config.describe import SettingDescription, describe_settings
from geko_proxy.config.loader import load_settings
from geko_proxy.config.oauth_settings import OAuthProviderSettings
from geko_proxy.config.people_settings import AuthSettings
from geko_proxy.config.settings import (
    DEFAULT_FILTERS,
    DatabaseSettings,
    FilterSettings,
    LibreChatSettings,
    LoggingSettings,
    RedisSettings,
    ServerSettings,
    Settings,
)
from geko_proxy.errors import ConfigError

__all__ = [
    "DEFAULT_FILTERS",
    "AuthSettings",
    "ConfigError",
    "DatabaseSettings",
    "FilterSettings",
    "LibreChatSettings",
    "LoggingSettings",
    "OAuthProviderSettings",
    "RedisSettings",
    "ServerSettings",
    "SettingDescription",
    "Settings",
    "describe_settings",
    "load_settings",
]
