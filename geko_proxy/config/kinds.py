"""What a setting may hold: one `Kind` each, which reads it from text and checks it. No file is opened here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Generic, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

T = TypeVar("T")
Network = IPv4Network | IPv6Network

_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_DOMAIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}")
_WORKSPACE_HOSTS = re.compile(r"\{workspace\}\.\{tenant\}(\.[a-z0-9][a-z0-9-]*)+")
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How one sort of setting is read.

    expected: completes "expected …" in a problem and in the documentation.
    check: takes a TOML value, gives the setting's value, raises ValueError when it doesn't fit; the error's
    text, if any, is added to the problem and so must not quote the value.
    parse: turns the text of an environment variable into the TOML value that `check` wants.
    """

    expected: str
    check: Callable[[object], T]
    parse: Callable[[str], object] = str.strip


def integer(minimum: int, maximum: int | None = None) -> Kind[int]:
    """Make a kind for whole numbers from minimum to maximum, both allowed."""
    expected = (
        f"an integer from {minimum} to {maximum}" if maximum is not None else f"an integer >= {minimum}"
    )

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError
        return value

    return Kind(expected, check, parse=int)


def number(minimum: float, maximum: float) -> Kind[float]:
    """Make a kind for numbers from minimum to maximum, both allowed."""

    def check(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise ValueError
        return float(value)

    return Kind(f"a number from {minimum:g} to {maximum:g}", check, parse=float)


def flag() -> Kind[bool]:
    """Make a kind for yes or no: true and false in TOML, also yes/no, on/off, 1/0 in the environment."""
    return Kind("true or false", _boolean, parse=_parse_flag)


def flag_or_auto() -> Kind[bool | Literal["auto"]]:
    """Make a kind for true, false or "auto"."""

    def check(value: object) -> bool | Literal["auto"]:
        return "auto" if value == "auto" else _boolean(value)

    def parse(text: str) -> object:
        return "auto" if text.strip().lower() == "auto" else _parse_flag(text)

    return Kind('true, false or "auto"', check, parse)


def choice(*allowed: str) -> Kind[str]:
    """Make a kind for one of a few words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError
        return value

    return Kind(" or ".join(f'"{word}"' for word in allowed), check, parse=lambda text: text.strip().lower())


def word(*allowed: str) -> Kind[str]:
    """Make a kind for one of a few names that have capital letters; any spelling of them will do."""
    by_spelling = {name.lower(): name for name in allowed}

    def check(value: object) -> str:
        if not isinstance(value, str) or value.lower() not in by_spelling:
            raise ValueError
        return by_spelling[value.lower()]

    return Kind(" or ".join(f'"{name}"' for name in allowed), check)


def text(expected: str = "text") -> Kind[str]:
    """Make a kind for any text without control characters; empty is allowed."""
    return Kind(expected, _string)


def currency() -> Kind[str]:
    """Make a kind for the code of a currency (ISO 4217)."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not _CURRENCY.fullmatch(value):
            raise ValueError
        return value

    return Kind("a currency's three capital letters, such as USD", check)


def domain() -> Kind[str]:
    """Make a kind for a domain that LibreChat's own e-mail check (zod) takes: it needs a dot and a word after it."""

    def check(value: object) -> str:
        name = _string(value)
        if not _DOMAIN.fullmatch(name):
            raise ValueError
        return name.lower()

    return Kind("a domain like shadow.geko.invalid", check)


def workspace_hosts() -> Kind[str]:
    """Make a kind for a pattern of host names, as in "{workspace}.{tenant}.example.org"; empty is allowed."""

    def check(value: object) -> str:
        pattern = _string(value).strip().lower()
        if pattern and not _WORKSPACE_HOSTS.fullmatch(pattern):
            raise ValueError
        return pattern

    return Kind("a host name like {workspace}.{tenant}.example.org", check)


def folder() -> Kind[Path]:
    """Make a kind for the path of a folder, which need not exist yet; relative to the working directory."""

    def check(value: object) -> Path:
        name = _string(value)
        if not name:
            raise ValueError
        return Path(name).expanduser()

    return Kind("the path of a folder", check)


def origin() -> Kind[str]:
    """Make a kind for an http or https address without path, as in "https://chat.example.org"; empty is allowed."""

    def check(value: object) -> str:
        address = _string(value).rstrip("/")
        if not address:
            return ""
        parts = _split(address, ("http", "https"))
        if not parts.hostname or parts.username is not None:
            raise ValueError
        if parts.path or parts.query or parts.fragment:
            raise ValueError("the address must end after the host and port")
        return address

    return Kind("an http or https URL", check)


def peer_address() -> Kind[str]:
    """Make a kind for the address of an instance; also "auto" and "none", which empty stands for."""
    one = origin()

    def check(value: object) -> str:
        return value if value in ("auto", "none") and isinstance(value, str) else one.check(value) or "none"

    return Kind('an http or https URL, "auto" or "none"', check)


def origins() -> Kind[tuple[str, ...]]:
    """Make a kind for a list of web origins (RFC 6454), each a scheme and host, a port where it is not the usual."""
    one = origin().check

    def check(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise ValueError
        return tuple(one(item) for item in value)

    return Kind("a list of origins like https://app.example.org", check, parse=_parse_list)


def server_url(*schemes: str) -> Kind[str]:
    """Make a kind for the URL of a database server with one of these schemes; empty is allowed."""

    def check(value: object) -> str:
        address = _string(value)
        if address:
            _split(address, schemes)
        return address

    return Kind("a URL that starts with " + " or ".join(f"{scheme}://" for scheme in schemes), check)


def networks() -> Kind[tuple[Network, ...]]:
    """Make a kind for a list of IP networks in CIDR notation; a bare address is a network of one."""

    def check(value: object) -> tuple[Network, ...]:
        if not isinstance(value, list):
            raise ValueError
        return tuple(ip_network(_string(item).strip()) for item in value)

    return Kind("a list of IP networks like 10.0.0.0/8", check, parse=_parse_list)


def _split(address: str, schemes: Sequence[str]) -> SplitResult:
    parts = urlsplit(address)
    if parts.scheme not in schemes or "://" not in address or re.search(r"\s", address):
        raise ValueError
    _ = parts.port  # raises ValueError for one that is no number or too large
    return parts


def _string(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _parse_flag(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _parse_list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
