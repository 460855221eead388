"""The model calls of one Agents API request: tool calls as ordered (`calls=3`), then the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

from geko_proxy.demo.librechat.chat.provider import ModelCall, ModelProvider, Usage, order_in
from geko_proxy.demo.librechat.express import nanoid
from geko_proxy.demo.librechat.library.agents import Agent
from geko_proxy.demo.librechat.llm import loop as real
from geko_proxy.demo.librechat.llm import tools
from geko_proxy.demo.librechat.routes import Call

OUTPUT = "Nothing was found in the archive of the old oak by the river."


class Piece(NamedTuple):
    """A piece of what happens. tool: begins a tool call (text: its id); args: of it; output: of the tool."""

    kind: Literal["text", "think", "tool", "args", "output"]
    text: str
    name: str = "search_mcp_everything"


class Pieces(Protocol):
    """A request's calls, whoever answers them. usages: what the provider reported, a call each."""

    usages: list[Usage]

    def pieces(self) -> AsyncIterator[Piece]:
        """All calls, one after the other. Raises ProviderError or ProviderDied."""
        ...


def loop_of(call: Call, agent: Agent, asked: ModelCall) -> Pieces:
    """The calls of a request to an agent."""
    return RealLoop(call, agent, asked) if call.lc.settings.llm_url else Loop(call.lc.provider, asked)


class RealLoop:
    """Real calls, with the agent's tools; LibreChat does not look whether its model is listed here."""

    def __init__(self, call: Call, agent: Agent, asked: ModelCall) -> None:
        self.usages: list[Usage] = []
        children = tools.children(
            call.lc, agent, {}
        )  # only itself: controllers/agents/openai.js loads no others
        asked.tools = tools.of_agent(agent)
        if children:
            asked.tools.append(tools.subagent_definition(children))
        self._loop = real.Loop(call.lc, asked, children)

    async def pieces(self) -> AsyncIterator[Piece]:
        """All calls, one after the other; of sub-agents only the usage."""
        async with aclosing(self._loop.happenings()) as happenings:  # type: ignore[type-var]
            async for found in happenings:
                if found.kind == "answered" and found.call.usage is not None:
                    self.usages.append(found.call.usage)
                piece = None if found.child is not None else _piece(found)
                if piece is not None:
                    yield piece


def _piece(found: real.Happening) -> Piece | None:
    if found.kind == "output":
        return Piece("output", found.output)
    if found.delta is None:
        return None
    if found.delta.kind == "tool" and found.tool is not None:
        return Piece("tool", found.tool.id, found.tool.name)
    return Piece("args" if found.delta.kind == "arguments" else found.delta.kind, found.delta.text)


class Loop:
    """usages: what the provider reported, a call each."""

    def __init__(self, provider: ModelProvider, asked: ModelCall) -> None:
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
            yield Piece("think" if piece.kind == "think" else "text", piece.text)
        self._note(call)

    def _note(self, call: ModelCall) -> None:
        if call.usage is not None:
            self.usages.append(call.usage)
