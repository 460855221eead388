"""What the shapes of answers have in common: one object a call that writes bytes of its API."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from geko_proxy.demo.provider.asked import Asked
from geko_proxy.demo.provider.books import Usage
from geko_proxy.demo.provider.plan import Finish, Piece

Json = dict[str, Any]
encode = msgspec.json.encode


class Shape(ABC):
    """An answer on the wire. `usage` is None where it is not to be told."""

    api: ClassVar[str]

    def __init__(self, asked: Asked, prompt: int) -> None:
        self.asked, self.prompt = asked, prompt
        self.id = secrets.token_hex(12)
        self.created = int(time.time())

    @abstractmethod
    def opening(self, usage: Usage | None) -> bytes:
        """What stands before the first piece."""

    @abstractmethod
    def pieces(self, batch: Sequence[Piece]) -> bytes:
        """A few pieces."""

    @abstractmethod
    def closing(self, finish: Finish, usage: Usage | None) -> bytes:
        """The proper end."""

    @abstractmethod
    def broken(self, message: str) -> bytes:
        """An error event instead of the end."""

    @abstractmethod
    def whole(self, said: Sequence[Piece], finish: Finish, usage: Usage | None) -> Json:
        """The answer in one piece."""


def event(data: Any, name: str = "") -> bytes:
    """One SSE event."""
    head = b"event: %s\n" % name.encode() if name else b""
    return b"%sdata: %s\n\n" % (head, encode(data))


def text_of(said: Sequence[Piece], kind: str) -> str:
    """All text of one kind."""
    return "".join(piece.text for piece in said if piece.kind == kind)


def tool_of(said: Sequence[Piece]) -> str | None:
    """The name of the tool that is asked for."""
    return next((piece.text for piece in said if piece.kind == "tool"), None)
