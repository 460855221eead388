"""What the access rules mean."""

from __future__ import annotations

import pytest

from geko_proxy.workspaces.access import PUBLIC, SIGNED_IN, in_tenant, in_workspace, needed_in_librechat
from geko_proxy.workspaces.roles import Permission, Role


def test_a_rule_names_its_roles() -> None:
    assert in_workspace(Permission.WRITE_SETTINGS).roles == (Role.ADMIN, Role.OWNER)
    assert in_workspace(Permission.READ_USAGE).roles == (Role.VIEWER, Role.MEMBER, Role.ADMIN, Role.OWNER)
    assert in_tenant(Permission.WRITE_TENANT).roles == (Role.OWNER,)
    assert PUBLIC.roles == SIGNED_IN.roles == ()


def test_a_rule_says_in_words_who_may() -> None:
    rule = in_workspace(Permission.WRITE_SETTINGS, or_self=True)
    assert rule.describe() == "admin, owner in the path's workspace; every member for oneself."
    assert PUBLIC.describe() == "Anybody."
    assert "signed in" in SIGNED_IN.describe()


@pytest.mark.parametrize(
    ("method", "operation", "needed"),
    [
        ("GET", "convos", Permission.READ_HISTORY),
        ("HEAD", "convos", Permission.READ_HISTORY),
        ("POST", "user/terms/accept", Permission.READ_HISTORY),
        ("POST", "convos/import", Permission.CHAT),
        ("DELETE", "convos.delete", Permission.CHAT),
        ("TRACE", "convos", Permission.CHAT),
    ],
)
def test_librechats_routes(method: str, operation: str, needed: Permission) -> None:
    assert needed_in_librechat(method, operation) is needed
