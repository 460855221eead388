"""`geko doctor`."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any
from uuid import UUID

from geko_proxy.config import Settings
from geko_proxy.doctor.examination import ChatOrder, examine

TEXT = "Check the LibreChat that runs behind GEKO, and GEKO's own side; say what to change."


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to the others."""
    parser: argparse.ArgumentParser = commands.add_parser("doctor", help=TEXT, description=TEXT)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--chat",
        type=UUID,
        metavar="WORKSPACE",
        help="also chat once as the owner of this workspace, at its expense, and look where the calls went",
    )
    parser.add_argument(
        "--model", metavar="PROVIDER/MODEL", help="for --chat; default: the first one it sees"
    )
    parser.set_defaults(command=run)
    return parser


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Examine and report; 1 when something must be changed."""
    chat = ChatOrder(arguments.chat, arguments.model or "") if arguments.chat else None
    report = asyncio.run(examine(settings, chat))
    print(report.as_json() if arguments.json else report.as_text())
    return 1 if report.failed else 0
