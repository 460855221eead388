"""`geko demo`: everything needed to see GEKO work, started and ended together.

Brings an embedded PostgreSQL, a stand-in LibreChat (unless librechat.url names a real one), and a tenant with an
owner, a member and a small quota. What it makes is kept under server.home.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec

from geko_proxy.accounts.registration import EmailTaken, Registration
from geko_proxy.config import Settings
from geko_proxy.demo.librechat.server import StandIn
from geko_proxy.errors import ConfigError
from geko_proxy.server import serve
from geko_proxy.storage.database import Database
from geko_proxy.storage.migrations import MIGRATIONS, migrate
from geko_proxy.workspaces.config import WorkspaceConfig, WorkspaceConfigStore
from geko_proxy.workspaces.roles import Role

OWNER = "owner@demo.example"
MEMBER = "member@demo.example"
TOKEN_LIMIT = 500
ANSWER_TOKENS = 120
ANSWER_DELAY_MS = 25.0
DEFAULT_MODEL = "MockUsage/gpt-4o-mini"


@dataclasses.dataclass
class DemoState:
    """What a demo home remembers between starts: secrets, and the accounts' password."""

    auth_jwt_secret: str
    shadow_secret: str
    librechat_jwt_secret: str
    librechat_jwt_refresh_secret: str
    password: str
    encryption_secret: str = ""  # homes of earlier versions have none

    @classmethod
    def load(cls, home: Path) -> DemoState:
        """Read the state, or make one; only its owner may read the file."""
        path = home / "demo.json"
        if path.exists():
            state = msgspec.json.decode(path.read_bytes(), type=cls)
            if state.encryption_secret:
                return state
            state = dataclasses.replace(state, encryption_secret=secrets.token_hex(32))
        else:
            home.mkdir(parents=True, exist_ok=True)
            auth, encryption, shadow, jwt, refresh = (secrets.token_hex(32) for _ in range(5))
            state = cls(auth, shadow, jwt, refresh, f"geko-{secrets.token_hex(4)}", encryption)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(state))
        return state


async def run_demo(settings: Settings) -> None:
    """Start everything, print the screen, serve until Ctrl-C, end everything."""
    state = DemoState.load(settings.server.home)
    async with AsyncExitStack() as stack:
        settings, is_stand_in = await _librechat(settings, state, stack)
        dsn = settings.database.url or await stack.enter_async_context(_embedded(settings.server.home))
        settings = _with_defaults(settings, state, dsn)
        await migrate(dsn, MIGRATIONS)
        if is_stand_in:
            await _forget_shadows(dsn)
        used = await _seed(dsn, state.password, is_stand_in)

        async def ready(address: str) -> None:
            print(screen(settings, address, state.password, used, is_stand_in), flush=True)

        await serve(settings, ready)


async def _librechat(settings: Settings, state: DemoState, stack: AsyncExitStack) -> tuple[Settings, bool]:
    given = settings.librechat
    if given.url:
        if given.identity == "mint" and not given.jwt_secret:
            raise ConfigError(
                ["librechat.jwt_secret: needed (LIBRECHAT_JWT_SECRET), or set GEKO_LIBRECHAT_IDENTITY=login"]
            )
        return settings, False
    stand_in = StandIn(
        jwt_secret=state.librechat_jwt_secret,
        jwt_refresh_secret=state.librechat_jwt_refresh_secret,
        secure_image_links=True,
        default_tokens=ANSWER_TOKENS,
        default_delay_ms=ANSWER_DELAY_MS,
    )
    await stack.enter_async_context(stand_in)
    librechat = dataclasses.replace(
        given,
        url=stand_in.url,
        identity="mint",
        jwt_secret=state.librechat_jwt_secret,
        jwt_refresh_secret=state.librechat_jwt_refresh_secret,
    )
    return dataclasses.replace(settings, librechat=librechat), True


@asynccontextmanager
async def _embedded(home: Path) -> AsyncIterator[str]:
    from geko_proxy.storage.embedded import EmbeddedPostgres  # needs the extra `embedded`

    postgres = EmbeddedPostgres()
    try:
        yield await asyncio.to_thread(postgres.start, home)
    finally:
        await asyncio.to_thread(postgres.stop)


def _with_defaults(settings: Settings, state: DemoState, dsn: str) -> Settings:
    auth, librechat, mail = settings.auth, settings.librechat, settings.mail
    return dataclasses.replace(
        settings,
        database=dataclasses.replace(settings.database, url=dsn),
        auth=dataclasses.replace(
            auth,
            jwt_secret=auth.jwt_secret or state.auth_jwt_secret,
            encryption_secret=auth.encryption_secret or state.encryption_secret,
        ),
        mail=dataclasses.replace(mail, transport="folder" if mail.transport == "off" else mail.transport),
        librechat=dataclasses.replace(
            librechat, shadow_secret=librechat.shadow_secret or state.shadow_secret
        ),
    )


async def _forget_shadows(dsn: str) -> None:
    """The stand-in keeps nothing between starts, so its accounts are made anew."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("delete from shadow_accounts; delete from shared_links")
    finally:
        await connection.close()


async def _seed(dsn: str, password: str, is_stand_in: bool) -> int:
    """Make the demo tenant if it is not there; return the tokens used this month."""
    database = await Database.open(dsn)
    try:
        registration = Registration(database)
        try:
            made = await registration.register(
                email=OWNER, password=password, name="Demo Owner", tenant_name="Demo", token_limit=TOKEN_LIMIT
            )
        except EmailTaken:
            return await _used(dsn)
        tenant_id, workspace_id = made.tenant.tenant_id, made.workspace.workspace_id
        await registration.add_member(tenant_id, workspace_id, MEMBER, password, "Demo Member", Role.MEMBER)
        if is_stand_in:
            await WorkspaceConfigStore(database).put(
                tenant_id, workspace_id, WorkspaceConfig(default_model=DEFAULT_MODEL)
            )
        return 0
    finally:
        await database.close()


async def _used(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        value = await connection.fetchval(
            "select coalesce(sum(w.used), 0) from limit_windows w join login_emails e using (tenant_id)"
            " where e.email = $1 and w.limit_id = w.workspace_id and w.ends_at > now()",
            OWNER,
        )
    finally:
        await connection.close()
    return int(value)


def screen(settings: Settings, address: str, password: str, used: int, is_stand_in: bool) -> str:
    """What `make run` shows."""
    librechat = "a stand-in (LIBRECHAT_URL names a real one)" if is_stand_in else settings.librechat.url
    left = max(0, TOKEN_LIMIT - used)
    return f"""
  GEKO is running.

  Address    {address}
  LibreChat  {librechat}
  Sign in    {OWNER} or {MEMBER}, password {password}
  Quota      {left:,} of {TOKEN_LIMIT:,} tokens left this month

  1. Log in:

TOKEN=$(curl -s {address}/v1/auth/login -H 'Content-Type: application/json' \\
  -d '{{"email":"{OWNER}","password":"{password}"}}' | sed 's/.*"accessToken":"\\([^"]*\\)".*/\\1/')

  2. Watch an answer stream:

curl -N {address}/v1/chat/send -H "Authorization: Bearer $TOKEN" \\
  -H 'Content-Type: application/json' -d '{{"message":"Tell me about foxes"}}'

  Ctrl-C ends everything.
"""
