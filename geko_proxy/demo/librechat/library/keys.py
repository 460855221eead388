"""API keys of the remote Agents API: /api/api-keys."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from aiohttp import web

from geko_proxy.demo.librechat.accounts import Account
from geko_proxy.demo.librechat.express import Json, json_reply, now_iso, object_id
from geko_proxy.demo.librechat.routes import Call, Route


@dataclass(slots=True)
class ApiKey:
    """A key; the secret is shown once."""

    account: Account
    name: str
    expires_at: str | None
    secret: str = field(default_factory=lambda: f"sk-{secrets.token_hex(32)}")
    id: str = field(default_factory=object_id)
    created_at: str = field(default_factory=now_iso)
    last_used_at: str | None = None

    def shown(self) -> Json:
        """Without the secret."""
        used = {"lastUsedAt": self.last_used_at} if self.last_used_at else {}
        ends = {"expiresAt": self.expires_at} if self.expires_at else {}
        named = {"id": self.id, "name": self.name, "keyPrefix": self.secret[:8]}
        return {**named, **used, **ends, "createdAt": self.created_at}


class ApiKeys:
    """All keys."""

    def __init__(self) -> None:
        self._keys: list[ApiKey] = []

    def add(self, key: ApiKey) -> None:
        """Keep a new key."""
        self._keys.append(key)

    def of(self, account: Account) -> list[ApiKey]:
        """An account's keys."""
        return [key for key in self._keys if key.account is account]

    def use(self, secret: str) -> Account | None:
        """The account behind a secret that is still good."""
        for key in self._keys:
            if key.secret == secret and (key.expires_at is None or key.expires_at > now_iso()):
                key.last_used_at = now_iso()
                return key.account
        return None

    def delete(self, account: Account, key_id: str) -> bool:
        """Forget a key of an account; False if there is none."""
        kept = [k for k in self._keys if k.account is not account or k.id != key_id]
        found, self._keys = len(kept) < len(self._keys), kept
        return found


async def create(call: Call) -> web.Response:
    """POST /api/api-keys"""
    if not call.lc.settings.remote_agents:
        return json_reply({"message": "Forbidden: Insufficient permissions"}, 403)
    name = call.body.get("name")
    if not isinstance(name, str) or not name.strip():
        return json_reply({"error": "API key name is required"}, 400)
    key = ApiKey(call.user, name, call.body.get("expiresAt"))
    call.lc.api_keys.add(key)
    return json_reply({**key.shown(), "key": key.secret}, 201)


async def listed(call: Call) -> web.Response:
    """GET /api/api-keys"""
    return json_reply({"keys": [key.shown() for key in call.lc.api_keys.of(call.user)]})


async def one(call: Call) -> web.Response:
    """GET /api/api-keys/:id"""
    found = [key for key in call.lc.api_keys.of(call.user) if key.id == call.params["id"]]
    return json_reply(found[0].shown()) if found else json_reply({"error": "API key not found"}, 404)


async def delete(call: Call) -> web.Response:
    """DELETE /api/api-keys/:id"""
    if call.lc.api_keys.delete(call.user, call.params["id"]):
        return web.Response(status=204)
    return json_reply({"error": "API key not found"}, 404)


ROUTES = (
    Route("POST", "/api/api-keys", create),
    Route("GET", "/api/api-keys", listed),
    Route("GET", "/api/api-keys/:id", one),
    Route("DELETE", "/api/api-keys/:id", delete),
)
