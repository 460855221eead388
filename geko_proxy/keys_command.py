"""`geko keys`: the signing keys in the database."""

from __future__ import annotations

import argparse
import getpass
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from geko_proxy.accounts.sealing import Sealer
from geko_proxy.accounts.signing_key_rotation import DELAY_S, SKEW_S, URGENT_DELAY_S
from geko_proxy.accounts.signing_key_store import KeyEvent, SigningKeyStore, StoredKey
from geko_proxy.accounts.signing_keys import ALGORITHMS
from geko_proxy.config import Settings
from geko_proxy.config.secrets import weakness
from geko_proxy.errors import ConfigError
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation

TEXT = "List, rotate and retire the keys that sign access tokens."


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to the others."""
    parser: argparse.ArgumentParser = commands.add_parser("keys", help=TEXT, description=TEXT)
    actions = parser.add_subparsers(required=True, metavar="action", dest="action")
    actions.add_parser("list", help="Show the keys and what each is good for now.")
    actions.add_parser("log", help="Show what was done to the keys, when and by whom; the newest first.")
    rotate = actions.add_parser(
        "rotate", help=f"Make a key that signs in {DELAY_S // 60} minutes, when everybody knows it."
    )
    rotate.add_argument("--now", action="store_true", help=f"after {URGENT_DELAY_S:g} seconds instead")
    rotate.add_argument("--algorithm", choices=ALGORITHMS, help="default: auth.signing, else EdDSA")
    retire = actions.add_parser("retire", help="End a key: its tokens are refused at once, everywhere.")
    retire.add_argument("kid", help="the key's name, as `geko keys list` shows it")
    retire.add_argument("--force", action="store_true", help="even the only one that signs")
    return parser


async def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Do what the arguments say. Raises ConfigError, BadKey, StoreError."""
    async with opened(settings) as store:
        if arguments.action == "list":
            ttl_s = settings.auth.access_token_ttl_s + SKEW_S
            print("\n".join(lines(await store.rows(), ttl_s, time.time())) or "there are no keys")
        elif arguments.action == "log":
            print("\n".join(map(event_line, await store.events())) or "nothing was done yet")
        elif arguments.action == "rotate":
            algorithm = arguments.algorithm or settings.auth.signing
            algorithm = algorithm if algorithm in ALGORITHMS else ALGORITHMS[0]
            kid = await store.add(algorithm, URGENT_DELAY_S if arguments.now else DELAY_S)
            print(f"made {kid} ({algorithm})")
        else:
            await store.retire(arguments.kid, forced=arguments.force)
            print(f"retired {arguments.kid}")


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[SigningKeyStore]:
    """The store of these settings. Raises ConfigError when it can't be used."""
    if fault := weakness(settings.auth.encryption_secret):
        raise ConfigError([f"auth.encryption_secret: {fault}; it seals the keys"])
    if settings.auth.signing_keys:
        raise ConfigError(["auth.signing_keys is set: keys are rotated by its files, see docs/keys.md"])
    database = await Database.open(settings.database.url, max_size=2)
    try:
        sealer = Sealer(settings.auth.encryption_secret)
        yield SigningKeyStore(database, sealer, Invalidation(settings.database.url), whoami())
    finally:
        await database.close()


def lines(rows: list[StoredKey], ttl_s: float, now: float) -> list[str]:
    """One line for each key: name, algorithm, state, times."""
    found = []
    for row in rows:
        later = [each for each in rows if each.algorithm == row.algorithm and each.retired_at is None]
        later = [each for each in later if (each.signs_from, each.kid) > (row.signs_from, row.kid)]
        successor = later[0].signs_from.timestamp() if later else None
        state = state_of(row, successor, ttl_s, now)
        found.append(
            f"{row.kid}  {row.algorithm:<5}  {state:<8}  signs from {row.signs_from:%Y-%m-%d %H:%M:%SZ}"
        )
    return found


def event_line(event: KeyEvent) -> str:
    """One line: when, who, what, which key, more."""
    return f"{event.happened_at:%Y-%m-%d %H:%M:%SZ}  {event.actor}  {event.action}  {event.target}  {event.details}"


def whoami() -> str:
    """Who gives the command, for the log: the account on this machine."""
    try:
        return f"geko keys by {getpass.getuser()}"[:200]
    except (KeyError, OSError):  # a number without a name, as in containers
        return f"geko keys by user {os.getuid()}"


def state_of(row: StoredKey, successor: float | None, ttl_s: float, now: float) -> str:
    """next: signs later; signing; verifying: its last tokens go on; over; retired: by hand or after that."""
    if row.retired_at is not None:
        return "retired"
    if row.signs_from.timestamp() > now:
        return "next"
    if successor is None or successor > now:
        return "signing"
    return "verifying" if successor + ttl_s > now else "over"
