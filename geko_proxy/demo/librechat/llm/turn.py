"""One speaker's answer made of real calls: what happens in them becomes LibreChat's events (contract §4.5)."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from geko_proxy.demo.librechat.chat import shapes
from geko_proxy.demo.librechat.chat.prompts import thread_prompt
from geko_proxy.demo.librechat.chat.provider import Delta, ModelCall, ToolCall, order_in, tokens_in
from geko_proxy.demo.librechat.chat.shapes import Speaker
from geko_proxy.demo.librechat.express import Json, nanoid, now_iso
from geko_proxy.demo.librechat.llm import tools
from geko_proxy.demo.librechat.llm.loop import ChildRun, Happening, Loop
from geko_proxy.demo.librechat.settings import Endpoint

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.chat.runs import Run

VENDOR: Final = "openAI"


class RealTurn:
    """Plays the calls of one speaker and publishes what they bring."""

    def __init__(self, run: Run, speaker: Speaker, endpoint: Endpoint, context: Json) -> None:
        self._run, self._speaker, self._endpoint, self._context = run, speaker, endpoint, context
        self._step: Json | None = None
        self._kind, self._thought = "", False
        self._tool_steps: dict[str, tuple[Json, Json]] = {}
        self._child_step: Json = {}
        self._calls = 0

    async def play(self, messages: list[Json]) -> None:
        """The whole answer. Raises ProviderError, ProviderDied."""
        run, prompts = self._run, thread_prompt(self._speaker, messages)
        words = order_in(prompts, self._speaker.model).get("summary")
        if words is not None:
            await self._sum_up(int(words))
        asked = run.asked(self._speaker, self._endpoint, prompts)
        agent = run.lc.agents.get(self._speaker.agent_id)
        children = [] if agent is None else tools.children(run.lc, agent, run.turn.models)
        asked.tools = tools.of_request(run.lc, run.turn.body) if agent is None else tools.of_agent(agent)
        if children:
            asked.tools.append(tools.subagent_definition(children))
        async with aclosing(Loop(run.lc, asked, children).happenings()) as happenings:  # type: ignore[type-var]
            async for happening in happenings:
                self._show(happening)

    def _show(self, found: Happening) -> None:
        if found.child is not None:
            self._show_child(found, found.child)
        elif found.kind == "call":
            self._begin(found.call)
        elif found.delta is not None and found.tool is not None:
            self._show_tool(found.delta, found.tool)
        elif found.delta is not None:
            self._show_text(found.delta, found.call)
        elif found.kind == "answered":
            self._run.report(found.call, VENDOR)
        elif found.kind == "output" and found.tool is not None:
            step, part = self._tool_steps[found.tool.id]
            part |= {"output": found.output, "progress": 1}
            self._run.publish(shapes.tool_done(step, part))

    def _begin(self, call: ModelCall) -> None:
        """A further call is announced with a longer prompt; the first was by the run."""
        self._step, self._kind, self._thought = None, "", False
        self._calls += 1
        if self._calls == 1:
            return
        latest = [m for m in call.messages[-2:] if m["role"] in ("assistant", "tool")]
        grown = sum(tokens_in(str(m.get("content")) + str(m.get("tool_calls") or "")) for m in latest)
        self._announce(self._context["breakdown"]["messageTokens"] + grown, len(latest))

    def _announce(self, message_tokens: int, more_messages: int) -> None:
        count = self._context["breakdown"]["messageCount"] + more_messages
        self._context = shapes.recalled(self._context, message_tokens, count)
        self._run.show_context(self._context)

    def _show_text(self, delta: Delta, call: ModelCall) -> None:
        self._thought = self._thought or delta.kind == "think"
        if self._step is None or delta.kind != self._kind:
            self._kind = delta.kind
            message_id = nanoid("msg_") if self._thought else call.answer_id or nanoid("msg_")
            self._step = self._run.begin_part(self._speaker, delta.kind, message_id)
        self._run.add(self._step, delta)

    def _show_tool(self, delta: Delta, tool: ToolCall) -> None:
        run = self._run
        if delta.kind == "tool":
            part: Json = {"id": tool.id, "name": tool.name, "args": "", "progress": 0.1}
            step = shapes.tool_step(run.response_id, self._speaker, len(run.content), tool.id, tool.name)
            run.open_step(step, {"type": "tool_call", "tool_call": part, **self._speaker.tags})
            self._tool_steps[tool.id] = (step, part)
            return
        step, part = self._tool_steps[tool.id]
        part["args"] += delta.text
        run.publish(shapes.tool_delta(step["id"], delta.text))

    def _show_child(self, found: Happening, child: ChildRun) -> None:
        """A sub-agent's events come wrapped, its reports as usage_type subagent."""
        if found.kind == "begin":
            self._update(child, "start")
            self._child_step = shapes.run_step(child.id, self._speaker, 0, nanoid("msg_"))
            self._update(child, "run_step", self._child_step)
        elif found.kind == "end":
            self._update(child, "stop")
        elif found.kind == "answered":
            self._run.report(found.call, VENDOR, "subagent")
        elif found.delta is not None and found.delta.kind == "text":
            step_id = str(self._child_step["id"])
            self._update(child, "message_delta", shapes.delta(step_id, "text", found.delta.text)["data"])

    def _update(self, child: ChildRun, phase: str, data: Json | None = None) -> None:
        about = {
            "runId": self._run.response_id,
            "subagentRunId": child.id,
            "parentToolCallId": child.tool_call_id,
            "subagentType": child.kind,
            "subagentAgentId": child.agent_id,
            "parentAgentId": self._speaker.agent_id,
            "phase": phase,
            "timestamp": now_iso(),
        }
        self._run.publish({"event": "on_subagent_update", "data": about | ({"data": data} if data else {})})

    async def _sum_up(self, words: int) -> None:
        """A summary by the endpoint and model that `summarization` names, else by the answering ones."""
        run, part_id, agent = self._run, nanoid("summary_"), self._speaker.agent_id
        name, model = run.lc.settings.summary or (self._endpoint.name, self._speaker.model)
        call = run.asked(self._speaker, self._endpoint, _summary_prompt(words))
        call.endpoint, call.model, call.purpose = name, model, "summarization"
        about: Json = {"agentId": agent, "provider": VENDOR, "model": model}
        run.publish(
            {
                "event": "on_summarize_start",
                "data": {**about, "messagesToRefineCount": 1, "summaryVersion": 1},
            }
        )
        text = ""
        async for piece in run.lc.provider.stream(call):
            text += piece.text
            shown = {"type": "summary", "content": [{"type": "text", "text": piece.text}], **about}
            run.publish({"event": "on_summarize_delta", "data": {"id": part_id, "delta": {"summary": shown}}})
        run.report(call, VENDOR, "summarization")
        whole = {"type": "summary", "content": [{"type": "text", "text": text}], **about}
        data = {"id": part_id, "agentId": agent, "summary": whole}
        run.publish({"event": "on_summarize_complete", "data": data})
        self._announce(min(self._context["breakdown"]["messageTokens"], 10 + tokens_in(text)), 0)


def _summary_prompt(words: int) -> list[Json]:
    told = f"Summarize the conversation above. [[tokens={words}]]"
    return [{"role": "user", "content": told}]
