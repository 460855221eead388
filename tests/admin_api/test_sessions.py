"""Admins sign members out of a workspace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from geko_proxy.accounts.sessions import Sessions
from geko_proxy.admin_api.sessions import MemberSessions
from geko_proxy.errors import Refused
from tests.admin_api.conftest import Office


@pytest.fixture
def office_with_sessions(office: Office) -> Office:
    return replace(office, services=replace(office.services, sessions=Sessions(office.services.database)))


def call(office: Office, who: str, whom: object) -> Any:
    exchange, request = office.call(who)
    exchange.params = {**exchange.params, "userId": str(whom)}
    return exchange, request


@pytest.mark.parametrize(
    ("who", "whom", "status"),
    [
        ("owner", "owner", 200),
        ("owner", "admin", 200),
        ("admin", "admin", 200),
        ("admin", "viewer", 200),
        ("admin", "owner", 403),
        ("member", "member", 403),
        ("viewer", "member", 403),
        ("stranger", "member", 404),
        ("owner", "stranger", 404),
        ("owner", "nobody", 404),
        ("owner", "nonsense", 404),
    ],
)
async def test_who_may_do_it_to_whom(office_with_sessions: Office, who: str, whom: str, status: int) -> None:
    office = office_with_sessions
    ids = {**office.users, "stranger": office.stranger.user.user_id, "nobody": uuid4(), "nonsense": "x"}
    endpoint = MemberSessions(office.services)
    try:
        found = (await endpoint.revoke(*call(office, who, ids[whom]))).status
    except Refused as refused:
        found = refused.status
    assert found == status


async def test_only_the_sessions_in_that_workspace_end(office_with_sessions: Office) -> None:
    office = office_with_sessions
    sessions, owner = office.services.sessions, office.users["owner"]
    tenant_id = office.first.tenant.tenant_id
    here = await sessions.open(tenant_id, owner, office.first.workspace.workspace_id, None, None)
    there = await sessions.open(tenant_id, owner, office.second.workspace_id, None, None)
    reply = await MemberSessions(office.services).revoke(*call(office, "owner", owner))
    assert reply.body == b'{"revoked":1}'
    assert not await sessions.is_active(tenant_id, here.session_id)
    assert await sessions.is_active(tenant_id, there.session_id)
