"""Tickets between password and code: whose they are, how often they are good for an attempt, when they end."""

from __future__ import annotations

from uuid import uuid4

import pytest

from geko_proxy.accounts.login_tickets import (
    MAX_ATTEMPTS,
    Ticket,
    TicketToken,
    close_ticket,
    close_tickets,
    open_ticket,
    use_ticket,
)
from geko_proxy.storage.database import Database
from tests.conftest import Account


async def opened(database: Database, account: Account, bound_to: str = "me") -> TicketToken:
    async with database.tenant(account.tenant_id) as scope:
        token = TicketToken.decode(await open_ticket(scope, account.user_id, account.workspace_id, bound_to))
    assert token is not None
    assert token.tenant_id == account.tenant_id
    return token


async def used(database: Database, token: TicketToken, bound_to: str = "me") -> Ticket | None:
    async with database.tenant(token.tenant_id) as scope:
        return await use_ticket(scope, token, bound_to)


async def test_a_ticket_is_good_for_some_attempts_of_its_client(database: Database, account: Account) -> None:
    token = await opened(database, account)
    ticket = Ticket(account.user_id, account.workspace_id)
    assert await used(database, token, "another") is None
    assert [await used(database, token) for _ in range(MAX_ATTEMPTS + 1)] == [ticket] * MAX_ATTEMPTS + [None]


async def test_secret_and_tenant_must_fit(database: Database, account: Account, stranger: Account) -> None:
    token = await opened(database, account)
    for wrong in (
        TicketToken(token.tenant_id, token.ticket_id, bytes(32)),
        TicketToken(token.tenant_id, uuid4(), token.secret),
        TicketToken(stranger.tenant_id, token.ticket_id, token.secret),
    ):
        assert await used(database, wrong) is None


async def test_tickets_end(database: Database, account: Account) -> None:
    one, two, three = [await opened(database, account) for _ in range(3)]
    async with database.tenant(account.tenant_id) as scope:
        await close_ticket(scope, one)
    assert await used(database, one) is None
    assert await used(database, two) is not None
    async with database.tenant(account.tenant_id) as scope:
        await scope.execute("update login_tickets set expires_at = now() where tenant_id = $1")
    assert await used(database, two) is None
    four = await opened(database, account)  # sweeps
    async with database.tenant(account.tenant_id) as scope:
        assert await scope.fetch_value("select count(*) from login_tickets where tenant_id = $1") == 1
        await close_tickets(scope, account.user_id)
    assert await used(database, four) is None
    assert three.encode() != four.encode()


@pytest.mark.parametrize("text", ["", "A" * 85, "A" * 87, "é" * 86, "A" * 85 + "=", "A" * 85 + "\n"])
def test_what_is_no_ticket(text: str) -> None:
    assert TicketToken.decode(text) is None
