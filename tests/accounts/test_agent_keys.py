"""Keys of LibreChat's Agents API: one a shadow account, sealed, made anew when LibreChat has forgotten it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from geko_proxy.accounts.agent_keys import AgentKeys, key_in
from geko_proxy.accounts.sealing import Sealer
from geko_proxy.accounts.shadow import MintedCredentials, ShadowAccounts, ShadowPasswords
from geko_proxy.accounts.shadow_store import ShadowStore
from geko_proxy.accounts.tokens import Identity
from geko_proxy.demo.librechat import StandIn
from geko_proxy.errors import Refused, UpstreamError
from geko_proxy.librechat_client import LibreChatClient
from geko_proxy.storage.database import Database
from geko_proxy.upstream import Upstream
from geko_proxy.workspaces.audit import Audit
from geko_proxy.workspaces.roles import Role
from tests.conftest import Account

SECRET = "j" * 32


@dataclass
class World:
    """A LibreChat, a database and any number of instances of GEKO."""

    lc: StandIn
    database: Database
    identity: Identity
    upstreams: list[Upstream] = field(default_factory=list)

    def instance(self, secret: str = "a secret") -> AgentKeys:
        """What one GEKO holds."""
        upstream = Upstream(self.lc.url)
        self.upstreams.append(upstream)
        client, store = LibreChatClient(upstream), ShadowStore(self.database)
        credentials = MintedCredentials(self.lc.settings.jwt_secret, None)
        shadows = ShadowAccounts(store, client, ShadowPasswords("s" * 32, "geko.test"), credentials)
        return AgentKeys(store, shadows, client, Sealer(secret), Audit())

    def forget_keys(self) -> None:
        """LibreChat loses all keys."""
        self.lc.api_keys = type(self.lc.api_keys)()

    @property
    def made(self) -> int:
        """How often a key was asked for."""
        return len(self.lc.received("/api/api-keys"))


@pytest.fixture
async def world(database: Database, account: Account) -> AsyncIterator[World]:
    async with StandIn(jwt_secret=SECRET, duplicate_delay_s=0.0) as lc:
        identity = Identity(
            account.user_id, account.tenant_id, account.workspace_id, Role.MEMBER, uuid4(), 2e9
        )
        made = World(lc, database, identity)
        yield made
        for upstream in made.upstreams:
            await upstream.close()


async def test_racing_requests_of_two_instances_make_one_key(world: World) -> None:
    instances = [world.instance(), world.instance()]
    keys = await asyncio.gather(*(each.get(world.identity) for each in instances * 5))
    assert len(set(keys)) == 1
    assert world.made == 1
    assert world.lc.api_keys.use(keys[0]) is not None


async def test_a_refused_key_is_replaced_once_for_all_instances(world: World) -> None:
    one, other = world.instance(), world.instance()
    old = await one.get(world.identity)
    assert await other.get(world.identity) == old
    world.forget_keys()
    new = await one.get(world.identity, refused=old)
    assert new != old
    assert await other.get(world.identity) == old  # until LibreChat refuses it there too
    assert await other.get(world.identity, refused=old) == new
    assert world.made == 2


async def test_a_key_is_stored_sealed_and_opens_with_the_same_secret_only(world: World) -> None:
    key = await world.instance().get(world.identity)
    async with world.database.tenant(world.identity.tenant_id) as scope:
        row = await scope.fetch_row("select * from agent_keys where tenant_id = $1")
        audit = await scope.fetch_row(
            "select * from audit_log where tenant_id = $1 and action like 'agents_api%'"
        )
    assert row is not None
    assert key not in str(dict(row))
    assert audit is not None
    assert audit["actor_user_id"] == world.identity.user_id
    assert key not in str(dict(audit))
    assert await world.instance().get(world.identity) == key
    assert await world.instance("another secret").get(world.identity) != key


async def test_a_key_goes_with_its_shadow_account(world: World) -> None:
    await world.instance().get(world.identity)
    async with world.database.tenant(world.identity.tenant_id) as scope:
        await scope.execute("delete from shadow_accounts where tenant_id = $1")
        assert await scope.fetch_row("select 1 from agent_keys where tenant_id = $1") is None


async def test_without_the_permission_the_reason_is_told(world: World, database: Database) -> None:
    async with StandIn(jwt_secret=SECRET, remote_agents=False, duplicate_delay_s=0.0) as lc:
        strict = World(lc, database, world.identity)
        with pytest.raises(Refused, match=r"interface\.remoteAgents\.use") as refused:
            await strict.instance().get(strict.identity)
        assert (refused.value.status, refused.value.code) == (403, "agents_api_off")
        for upstream in strict.upstreams:
            await upstream.close()


async def test_a_librechat_that_makes_no_key_is_an_upstream_error(world: World) -> None:
    world.lc.fail("/api/api-keys", "status", status=500)
    with pytest.raises(UpstreamError, match="made no key"):
        await world.instance().get(world.identity)


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"key": 7, "id": "i"}, {"key": "k"}, {"key": "k\r\nX: y", "id": "i"}, {"key": "k k", "id": "i"},
     {"key": "ké", "id": "i"}, {"key": "k", "id": "i" * 101}, {"key": "", "id": "i"}],
)  # fmt: skip
def test_what_is_no_key_is_not_taken(value: object) -> None:
    assert key_in(value)[0] == ""
