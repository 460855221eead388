"""`geko librechat-config`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from geko_proxy.config import Settings
from geko_proxy.errors import ConfigError
from geko_proxy.librechat_setup.env_file import write_env
from geko_proxy.librechat_setup.plan import Choices, ModelChoice, make_plan
from geko_proxy.librechat_setup.yaml_file import write_yaml

TEXT = "Write the librechat.yaml, or the .env lines, of a LibreChat behind GEKO with these settings."


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to the others."""
    parser: argparse.ArgumentParser = commands.add_parser("librechat-config", help=TEXT, description=TEXT)
    parser.add_argument("--env", action="store_true", help="the lines of LibreChat's .env instead")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write there, readable by the owner only if secrets are in it; default: print, without secrets",
    )
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument(
        "--gateway-url",
        default="",
        metavar="URL",
        help="where LibreChat reaches GEKO's internal listener, like http://geko:3003; default: llm.host and llm.port",
    )
    parser.add_argument("--title-model", metavar="MODEL", help="for titles; default: the model of the chat")
    for kind, otherwise in (("memory", "no memories"), ("summary", "the model of the chat")):
        parser.add_argument(
            f"--{kind}-model",
            type=_model,
            metavar="PROVIDER/MODEL",
            help=f"for {kind}; default: {otherwise}. Each workspace must allow it",
        )
    parser.add_argument(
        "--agents-api", action="store_true", help="open LibreChat's Agents API (/api/agents/v1)"
    )
    parser.set_defaults(command=run)
    return parser


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Write what the arguments ask for. Raises ConfigError."""
    choices = Choices(
        gateway_url=arguments.gateway_url,
        title_model=arguments.title_model,
        memory=arguments.memory_model,
        summary=arguments.summary_model,
        agents_api=arguments.agents_api,
    )
    plan = make_plan(settings, choices)
    output: Path | None = arguments.output
    text = write_env(plan, with_secrets=output is not None) if arguments.env else write_yaml(plan)
    if output is None:
        sys.stdout.write(text)
    else:
        write_file(output, text, forced=arguments.force, private=arguments.env)
        print(f"wrote {output}")
    return 0


def write_file(path: Path, text: str, *, forced: bool, private: bool) -> None:
    """Write a file whole or not at all. private: only its owner may read it. Raises ConfigError."""
    if not forced and path.exists():
        raise ConfigError([f"{path}: is there already; --force writes over it"])
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if forced:
            beside.replace(path)
        else:
            os.link(beside, path)  # unlike a rename, fails when another has written it meanwhile
    except FileExistsError:
        raise ConfigError([f"{path}: is there already; --force writes over it"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: can't be written ({error.strerror})"]) from None
    finally:
        beside.unlink(missing_ok=True)


def _model(text: str) -> ModelChoice:
    try:
        return ModelChoice.read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
