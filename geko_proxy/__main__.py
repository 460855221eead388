"""The `geko` command."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop

from geko_proxy import __version__, keys_command
from geko_proxy.config import Settings, load_settings
from geko_proxy.doctor import command as doctor
from geko_proxy.errors import ConfigError, GekoError
from geko_proxy.librechat_setup import command as librechat_config
from geko_proxy.logs import set_up_logging

DEFAULT_CONFIG = Path("config/geko.toml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 failed with a message, 2 wrong usage."""
    arguments = _parser().parse_args(argv)
    try:
        settings = _settings(arguments.config)
        set_up_logging(settings.logging)
        if "command" in arguments:
            status: int = arguments.command(settings, arguments)
        else:
            status = arguments.run(settings) if "action" not in arguments else _keys(settings, arguments)
    except GekoError as error:
        print(f"geko: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="geko", description="A multi-tenant reverse proxy for LibreChat.")
    parser.add_argument("--version", action="version", version=f"geko {__version__}")
    parser.add_argument(
        "--config", type=Path, default=None, help="settings file (default: config/geko.toml if it is there)"
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in COMMANDS:
        commands.add_parser(name, help=text, description=text).set_defaults(run=run)
    keys_command.add_parser(commands)
    librechat_config.add_parser(commands)
    doctor.add_parser(commands)
    return parser


def _settings(path: Path | None) -> Settings:
    if path is None and DEFAULT_CONFIG.exists():
        path = DEFAULT_CONFIG
    if path is not None and not path.exists():
        raise ConfigError([f"{path}: there is no such file"])
    return load_settings(path, os.environ, Path(".env"))


def _serve(settings: Settings) -> int:
    from geko_proxy.server import serve

    settings.require_serving()
    _require_database(settings)
    return _run(lambda: serve(settings))


def _demo(settings: Settings) -> int:
    from geko_proxy.demo.run import run_demo

    return _run(lambda: run_demo(settings))


def _migrate(settings: Settings) -> int:
    from geko_proxy.storage.migrations import MIGRATIONS, migrate

    _require_database(settings)

    async def run() -> None:
        applied = await migrate(settings.database.reaches_server, MIGRATIONS)
        print("\n".join(f"applied {name}" for name in applied) or "nothing to do")

    return _run(run)


def _check_config(settings: Settings) -> int:
    from geko_proxy.accounts import signing_key_files
    from geko_proxy.accounts.signing_keys import BadKey
    from geko_proxy.filters.loader import check_filters

    settings.require_serving()
    check_filters(settings.filters)
    if settings.auth.signing_keys:
        try:
            signing_key_files.load(Path(settings.auth.signing_keys).expanduser())
        except BadKey as error:
            raise ConfigError([f"auth.signing_keys: {error}"]) from None
    print("the configuration is valid")
    return 0


def _keys(settings: Settings, arguments: argparse.Namespace) -> int:
    _require_database(settings)
    return _run(lambda: keys_command.run(settings, arguments))


def _filters(settings: Settings) -> int:
    print("requests run from top to bottom, replies, events and finish from bottom to top:")
    for each in settings.filters:
        options = ", ".join(f"{name}={value!r}" for name, value in each.options.items())
        state = "" if each.enabled else "  (off)"
        print(f"  {each.name:<12} {options}{state}")
    return 0


def _require_database(settings: Settings) -> None:
    if not settings.database.url:
        raise ConfigError(
            ["database.url: needed (DATABASE_URL); only `geko demo` brings a database of its own"]
        )


def _run(command: Callable[[], Coroutine[Any, Any, object]]) -> int:
    logging.captureWarnings(True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(command())
    return 0


COMMANDS: tuple[tuple[str, Callable[[Settings], int], str], ...] = (
    ("serve", _serve, "Serve. Needs a PostgreSQL (migrated) and a LibreChat."),
    (
        "demo",
        _demo,
        "Serve with everything needed: PostgreSQL, a stand-in LibreChat, two accounts to sign in with.",
    ),
    ("migrate", _migrate, "Bring the database schema up to date."),
    ("check-config", _check_config, "Check the settings and report every problem."),
    ("filters", _filters, "Show the filters in their order."),
)

if __name__ == "__main__":
    sys.exit(main())
