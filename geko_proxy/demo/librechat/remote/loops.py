"""The model calls of one Agents API request: tool calls as ordered (`calls=3`), then the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Literal, NamedTuple

from geko_proxy.demo.librechat.chat.provider import ModelCall, Provider, Usage, order_in
from geko_proxy.demo.librechat.express import nanoid

OUTPUT = "Nothing was found in the archive of the old oak by the river."


class Piece(NamedTuple):
    """A piece of what happens. tool: begins a tool call (text: its id); args: of it; output: of the tool."""

    kind: Literal["text", "think", "tool", "args", "output"]
    text: str


class Loop:
    """usages: what the provider reported, a call each."""

    def __init__(self, provider: Provider, asked: ModelCall) -> None:
        self._provider, self._asked = provider, asked
        self.usages: list[Usage] = []

    async def pieces(self) -> AsyncIterator[Piece]:
        """All calls, one after the other. Raises as Provider.stream."""
        calls = int(order_in(self._asked.messages, self._asked.model).get("calls", 1))
        messages = list(self._asked.messages)
        for _ in range(calls - 1):
            call, arguments = replace(self._asked, messages=list(messages)), ""
            yield Piece("tool", nanoid("call_"))
            async for piece in self._provider.stream(call):
                arguments += piece.text
                yield Piece("args", piece.text)
            self._note(call)
            messages += [{"role": "assistant", "content": arguments}, {"role": "tool", "content": OUTPUT}]
            yield Piece("output", OUTPUT)
        call = replace(self._asked, messages=messages)
        async for piece in self._provider.stream(call):
            yield Piece(piece.kind, piece.text)
        self._note(call)

    def _note(self, call: ModelCall) -> None:
        if call.usage is not None:
            self.usages.append(call.usage)
