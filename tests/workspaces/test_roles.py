"""The matrix of roles and permissions, written out."""

from __future__ import annotations

import pytest

from geko_proxy.workspaces.roles import Permission, Role, allowed

#                       viewer member admin owner
MATRIX = {
    Permission.READ_HISTORY: "yes yes yes yes",
    Permission.CHAT: "no yes yes yes",
    Permission.READ_USAGE: "yes yes yes yes",
    Permission.READ_ALL_USAGE: "no no yes yes",
    Permission.READ_SETTINGS: "yes yes yes yes",
    Permission.WRITE_SETTINGS: "no no yes yes",
    Permission.WRITE_OWNERS: "no no no yes",
    Permission.DELETE_WORKSPACE: "no no no yes",
    Permission.TRANSFER_WORKSPACE: "no no no yes",
    Permission.WRITE_TENANT: "no no no yes",
}


@pytest.mark.parametrize("permission", Permission)
def test_the_matrix(permission: Permission) -> None:
    roles = (Role.VIEWER, Role.MEMBER, Role.ADMIN, Role.OWNER)
    assert [allowed(role, permission) for role in roles] == [
        word == "yes" for word in MATRIX[permission].split()
    ]
