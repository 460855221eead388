"""Keeps the project's shape: which part may import which, how long modules and functions may get, and that
.env.example and docs/settings.md say what the code says. Prints every fault; exits 1 when there is one."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from geko_proxy.config.describe import env_example, settings_page

ROOT = Path(__file__).parents[1]
PACKAGE = "geko_proxy"

# A module imports from its own layer and from those above it in this list, never from one below.
# The longest name that fits counts, so "filters.base" stands apart from the other "filters".
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "",
        "addresses",
        "background",
        "config",
        "errors",
        "event_log",
        "exchange",
        "headers",
        "librechat",
        "librechat_limits",
        "logs",
        "routing",
        "sse",
    ),
    ("browser_safety",),
    ("storage",),
    (
        "accounts",
        "alerts",
        "oauth",
        "workspaces",
        "metering",
        "llm.call",
        "llm.hidden",
        "llm.wire",
        "mail",
        "upstream",
        "upstream_connection",
        "librechat_client",
    ),
    ("peers", "turn", "turn_finals", "turns", "services"),
    ("policy", "filters.base"),
    ("filters",),
    ("filters.chain", "filters.loader"),
    (
        "relay",
        "taps",
        "http_server",
        "client_request",
        "door",
        "failures",
        "answers",
        "proxy",
        "recovery",
        "llm",
    ),
    ("client_api", "admin_api", "console"),
    ("app", "testing"),
    ("server", "demo", "keys_command", "librechat_setup", "doctor", "__main__"),
)
LAYER_OF = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Not even for annotations.
FORBIDDEN = {"filters": ("proxy", "admin_api", "console")}

MODULE_LINES, MODULE_LINES_WANTED = 400, 300
FUNCTION_LINES, FUNCTION_LINES_WANTED = 60, 40


def main() -> int:
    """Check everything; the number of faults decides the exit status, warnings don't."""
    faults = list(generated_files())
    warnings: list[str] = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        faults += imports(path, tree)
        for too_long, text in lengths(path, tree):
            (faults if too_long else warnings).append(text)
    for text in warnings:
        print(f"warning: {text}")
    for text in faults:
        print(f"fault: {text}")
    print(f"layout: {len(faults)} faults, {len(warnings)} warnings")
    return 1 if faults else 0


def generated_files() -> Iterator[str]:
    """Compare the files made from the settings with what would be made now."""
    for name, wanted in ((".env.example", env_example()), ("docs/settings.md", settings_page())):
        path = ROOT / name
        if not path.exists() or path.read_text("utf-8") != wanted:
            yield f"{name}: differs from geko_proxy/config/settings.py; run `make settings`"


def imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """Find imports against the direction of LAYERS, and modules that have no layer."""
    importer = _module(path)
    rank = _rank(importer)
    if rank is None:
        yield f"{_shown(path)}: is in no layer; add it to LAYERS in scripts/check_layout.py"
        return
    for_types = _lines_for_types(tree)
    for line, target in _imported(tree):
        place = f"{_shown(path)}:{line}"
        if target.split(".")[0] in FORBIDDEN.get(importer.split(".")[0], ()):
            yield f"{place}: {importer} must never import {target}"
        elif line not in for_types and (_rank(target) or 0) > rank:
            yield f"{place}: {importer} imports {target}, which stands below it in LAYERS"


def lengths(path: Path, tree: ast.Module) -> Iterator[tuple[bool, str]]:
    """Find modules and functions that are too long (True) or longer than wanted (False)."""
    lines = len(path.read_text("utf-8").splitlines())
    if lines > MODULE_LINES_WANTED:
        yield lines > MODULE_LINES, f"{_shown(path)}: {lines} lines, wanted {MODULE_LINES_WANTED}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_WANTED:
                place = f"{_shown(path)}:{node.lineno}"
                text = f"{place}: {node.name} has {length} lines, wanted {FUNCTION_LINES_WANTED}"
                yield length > FUNCTION_LINES, text


def _imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from geko_proxy.filters import chain` may name a module
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith(f"{PACKAGE}."):
                yield node.lineno, name.removeprefix(f"{PACKAGE}.")


def _lines_for_types(tree: ast.Module) -> set[int]:
    """Lines inside `if TYPE_CHECKING:`, whose imports don't happen when the program runs."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
    }


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _rank(module: str) -> int | None:
    if not module or module == "__version__":
        return LAYER_OF[""]
    parts = module.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((LAYER_OF[prefix] for prefix in prefixes if prefix in LAYER_OF), None)


def _shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


if __name__ == "__main__":
    sys.exit(main())
