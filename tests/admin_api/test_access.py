"""Who sees which workspace."""

from __future__ import annotations

from uuid import uuid4

import pytest

from geko_proxy.admin_api.access import enter, read_uuid
from geko_proxy.errors import Refused
from geko_proxy.workspaces.roles import Permission, Role
from tests.admin_api.conftest import Office


async def test_the_role_in_the_paths_workspace_counts(office: Office) -> None:
    access = await enter(office.services, office.call("member")[0], Permission.READ_USAGE)
    assert access.role is Role.MEMBER
    with pytest.raises(Refused) as refused:
        await enter(office.services, office.call("member")[0], Permission.WRITE_SETTINGS)
    assert (refused.value.status, refused.value.code) == (403, "forbidden")


async def test_other_workspaces_do_not_exist(office: Office) -> None:
    second = office.second.workspace_id
    for who, workspace_id in [
        ("member", second),
        ("stranger", None),
        ("stranger", second),
        ("owner", office.stranger.workspace.workspace_id),
        ("owner", uuid4()),
        ("owner", "nonsense"),
    ]:
        with pytest.raises(Refused) as refused:
            await enter(office.services, office.call(who, workspace_id)[0], Permission.READ_USAGE)
        assert (refused.value.status, refused.value.code) == (404, "workspace_not_found")


@pytest.mark.parametrize(
    "text", ["", "x", "{6b032e55-267c-468b-9984-90f6b032e55a}", "6b032e55267c468b998490f6b032e55a", "é" * 36]
)
def test_only_the_usual_form_names_a_workspace(text: str) -> None:
    assert read_uuid(text) is None
