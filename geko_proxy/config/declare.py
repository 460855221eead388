"""How a setting is declared: its default, its kind, what it is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from geko_proxy.config.kinds import Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of one setting: kind, documentation, further environment names, whether it may be shown."""

    kind: Kind[Any]
    doc: str
    aliases: tuple[str, ...] = ()
    secret: bool = False


def setting(default: T, kind: Kind[T], doc: str, *, aliases: tuple[str, ...] = (), secret: bool = False) -> T:
    """Declare one setting of a section; a secret is left out of `repr` and can also be read from a file."""
    spec = Spec(kind, doc, aliases, secret)
    return field(default=default, repr=not secret, metadata={"spec": spec})
