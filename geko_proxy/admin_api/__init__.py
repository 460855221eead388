"""The rest of /v1: workspaces, their configuration, quota and usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geko_proxy.admin_api.sessions import MemberSessions
from geko_proxy.admin_api.usage import Usage
from geko_proxy.admin_api.workspaces import Workspaces
from geko_proxy.exchange import Route
from geko_proxy.librechat import Rule
from geko_proxy.proxy import Endpoint

if TYPE_CHECKING:
    from geko_proxy.services import Services


def routes(services: Services) -> list[tuple[str, str, Rule, Endpoint]]:
    """The table of this folder: methods, path, rule, endpoint."""
    usage, workspaces = Usage(services), Workspaces(services)
    member_sessions = MemberSessions(services)
    own, one = Route.OWN, "/v1/workspaces/{workspaceId}"
    return [
        ("GET", "/v1/workspaces", Rule(own, "workspaces.list"), workspaces.list_mine),
        ("GET", one, Rule(own, "workspaces.get"), workspaces.get),
        ("GET", f"{one}/config", Rule(own, "workspaces.config.get"), workspaces.get_config),
        ("PUT", f"{one}/config", Rule(own, "workspaces.config.put"), workspaces.put_config),
        ("GET", f"{one}/quota", Rule(own, "workspaces.quota.get"), workspaces.get_quota),
        ("PUT", f"{one}/quota", Rule(own, "workspaces.quota.put"), workspaces.put_quota),
        ("GET", f"{one}/usage", Rule(own, "workspaces.usage"), usage.get),
        (
            "DELETE",
            f"{one}/members/{{userId}}/sessions",
            Rule(own, "workspaces.members.sessions.revoke"),
            member_sessions.revoke,
        ),
    ]
