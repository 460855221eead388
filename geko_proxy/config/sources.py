"""Where settings come from: the environment, a .env file, a TOML file. Only looked up here, checked in loader.py."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What Kubernetes puts into each container's environment when a Service is called "geko" or "geko-…".
_SERVICE_LINK = re.compile(r"GEKO_(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP))\w*")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp)://\S*")
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""'([^']*)'\s*(?:\#.*)?|"((?:[^"\\]|\\.)*)"\s*(?:\#.*)?""")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


@dataclass(frozen=True, slots=True)
class Variables:
    """Environment variables, or what a .env file says; an empty value counts as not set."""

    label: str  # as named in problems: "environment" or the path of the .env file
    values: Mapping[str, str]

    def get(self, name: str) -> str | None:
        """The variable's value; None when it is missing or empty."""
        return self.values.get(name) or None

    def place(self, name: str) -> str:
        """How a problem names this variable."""
        return f"{self.label} {name}"


def read_environment(environ: Mapping[str, str]) -> Variables:
    """Take the process environment without the service links of Kubernetes, which look like our own names."""
    values = {
        name: value
        for name, value in environ.items()
        if not _SERVICE_LINK.fullmatch(name)
        and not (name == "GEKO_PORT" and _SERVICE_LINK_VALUE.fullmatch(value))
    }
    return Variables("environment", values)


def read_toml(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """Read a TOML file; when it can't be read the reason is added to problems and the result is None."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        problems.append(f"{path}: no such file")
    except OSError as error:
        problems.append(f"{path}: can't be read: {error.strerror}")
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        problems.append(f"{path}: not valid TOML: {error}")
    return None


def read_dotenv(path: Path | None, problems: list[str]) -> Variables:
    """Read KEY=value lines; a file that doesn't exist is an empty one. Lines that are none of these are problems."""
    values: dict[str, str] = {}
    if path is None or not path.exists():
        return Variables(".env", values)
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: can't be read: {error}")
        return Variables(str(path), values)
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        value = _unquote(match[2]) if match else None
        if match is None or value is None:
            problems.append(f"{path}: line {number}: expected NAME=value")
        else:
            values[match[1]] = value
    return Variables(str(path), values)


def read_secret_file(name: str, place: str, problems: list[str]) -> str | None:
    """Read a secret from the file called name, without the line end that editors and `echo` leave."""
    try:
        content = Path(name).read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        problems.append(f"{place}: can't read {name}: {reason}")
        return None
    if not content:
        problems.append(f"{place}: {name} is empty")
        return None
    return content


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Complete a problem about an unknown name with the known name that looks most like it."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


def _unquote(raw: str) -> str | None:
    if raw[:1] in ("'", '"'):
        match = _QUOTED.fullmatch(raw)
        if match is None:
            return None
        if match[1] is not None:
            return match[1]
        return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), match[2])
    return re.split(r"\s+#", raw, maxsplit=1)[0].strip() if not raw.startswith("#") else ""
