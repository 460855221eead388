"""A turn's model calls, one after the other, until the model asks for no more tools; sub-agents' calls inside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from geko_proxy.demo.librechat.chat.provider import Delta, ModelCall, ToolCall
from geko_proxy.demo.librechat.express import Json, nanoid
from geko_proxy.demo.librechat.llm import tools
from geko_proxy.demo.librechat.llm.tools import Child

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.server import StandIn

MAX_CALLS: Final = 25  # recursionLimit of agents


class Happening(NamedTuple):
    """What happens in a turn.

    call: a call begins; piece: of its answer; answered: the call is over, its usage known; output: a tool has
    answered; begin and end: of a sub-agent, whose own happenings have `child`, its run's id.
    """

    kind: Literal["call", "piece", "answered", "output", "begin", "end"]
    call: ModelCall
    delta: Delta | None = None
    tool: ToolCall | None = None
    output: str = ""
    child: ChildRun | None = None


@dataclass(frozen=True, slots=True)
class ChildRun:
    """A sub-agent at work. tool_call_id: of the call that began it."""

    id: str
    kind: str
    agent_id: str
    tool_call_id: str


@dataclass(slots=True)
class Loop:
    """The calls of one speaker. asked: the first call, whose `messages` and `tools` the others begin with.

    children: its sub-agents; models: what this account may call, by endpoint.
    """

    lc: StandIn
    asked: ModelCall
    children: list[Child] = field(default_factory=list)
    models: dict[str, list[str]] = field(default_factory=dict)

    async def happenings(self) -> AsyncIterator[Happening]:
        """Play the turn. Raises ProviderError, ProviderDied."""
        messages = list(self.asked.messages)
        for _ in range(MAX_CALLS):
            call, text = self._next(messages), ""
            yield Happening("call", call)
            async with aclosing(self.lc.provider.stream(call)) as pieces:  # type: ignore[type-var]
                async for delta in pieces:
                    text += delta.text if delta.kind == "text" else ""
                    yield Happening("piece", call, delta, self._tool(call, delta))
            yield Happening("answered", call)
            if not call.asked_tools:
                return
            messages.append(tools.asked_message(text, call.asked_tools))
            for tool in call.asked_tools:
                output = tools.OUTPUT
                async with aclosing(self._use(call, tool)) as inner:  # type: ignore[type-var]
                    async for happening in inner:
                        output = happening.output if happening.kind == "end" else output
                        yield happening
                messages.append(tools.answered_message(tool, output))
                yield Happening("output", call, tool=tool, output=output)

    def _next(self, messages: list[Json]) -> ModelCall:
        return replace(self.asked, messages=list(messages), usage=None, asked_tools=[], answer_id="")

    def _tool(self, call: ModelCall, delta: Delta) -> ToolCall | None:
        return call.asked_tools[delta.at] if delta.kind in ("tool", "arguments") else None

    async def _use(self, call: ModelCall, tool: ToolCall) -> AsyncIterator[Happening]:
        """Run a sub-agent, if that is the tool; it has its own model, and the headers of its parent."""
        given = tools.arguments_of(tool)
        wanted = next((each for each in self.children if each.kind == given.get("subagent_type")), None)
        if tool.name != tools.SUBAGENT or wanted is None:
            return
        agent, endpoint = wanted.agent, self.lc.endpoint(wanted.agent.provider)
        system = [{"role": "system", "content": agent.instructions}] if agent.instructions else []
        first = replace(
            call,
            model=agent.model,
            endpoint=agent.provider,
            purpose="subagent",
            asks_usage=endpoint is not None and endpoint.asks_usage,
            messages=[*system, {"role": "user", "content": str(given.get("description") or "")}],
            tools=tools.of_agent(agent),
        )
        run = ChildRun(nanoid("run_"), wanted.kind, agent.id, tool.id)
        yield Happening("begin", first, child=run)
        said = ""
        async with aclosing(Loop(self.lc, first).happenings()) as inner:  # type: ignore[type-var]
            async for happening in inner:
                if happening.delta is not None and happening.delta.kind == "text":
                    said += happening.delta.text
                yield happening._replace(child=run)
        yield Happening("end", first, output=said, child=run)
