"""What an API key may be used for: one scope for each endpoint of /v1 that takes keys. All others refuse them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from geko_proxy.accounts.api_keys import ApiKey, KeyScope
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Route
from geko_proxy.workspaces.roles import Permission

# By operation. None: any key. What is not here needs a session: keys, sessions, passwords, members.
SCOPES: Final[Mapping[str, KeyScope | None]] = {
    "auth.me": None,
    "chat.send": KeyScope.CHAT,
    "workspaces.list": KeyScope.WORKSPACE_READ,
    "workspaces.get": KeyScope.WORKSPACE_READ,
    "workspaces.config.get": KeyScope.WORKSPACE_READ,
    "workspaces.config.put": KeyScope.WORKSPACE_WRITE,
    "workspaces.quota.get": KeyScope.WORKSPACE_READ,
    "workspaces.quota.put": KeyScope.WORKSPACE_WRITE,
    "limits.list": KeyScope.WORKSPACE_READ,
    "limits.get": KeyScope.WORKSPACE_READ,
    "limits.create": KeyScope.WORKSPACE_WRITE,
    "limits.change": KeyScope.WORKSPACE_WRITE,
    "limits.delete": KeyScope.WORKSPACE_WRITE,
    "workspaces.usage": KeyScope.USAGE_READ,
    "workspaces.usage.events": KeyScope.USAGE_READ,
    "workspaces.usage.reconcile": KeyScope.USAGE_READ,
    "usage.stream": KeyScope.USAGE_READ,
}

# What a role must allow before a person may make a key with the scope; when it is used, the role of then decides.
PERMISSIONS: Final[Mapping[KeyScope, Permission]] = {
    KeyScope.CHAT: Permission.CHAT,
    KeyScope.USAGE_READ: Permission.READ_USAGE,
    KeyScope.WORKSPACE_READ: Permission.READ_SETTINGS,
    KeyScope.WORKSPACE_WRITE: Permission.WRITE_SETTINGS,
}


def check_key(exchange: Exchange, key: ApiKey) -> None:
    """Raises Refused 403 unless a key may be used for this request."""
    asked = (
        exchange if exchange.parent is None else exchange.parent
    )  # a message that an endpoint of /v1 sends
    if asked.route is not Route.OWN or not asked.request.path.lower().startswith("/v1/"):
        raise Refused(
            403, "api_key_not_accepted", "API keys work on /v1 only, not on the web client's routes."
        )
    if asked.operation not in SCOPES:
        raise Refused(403, "api_key_not_accepted", "This can't be done with an API key. Sign in instead.")
    scope = SCOPES[asked.operation]
    if scope is not None and not key.allows(scope):
        raise Refused(403, "scope_missing", f"This API key does not have the scope {scope}.")
