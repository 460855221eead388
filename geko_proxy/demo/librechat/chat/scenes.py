"""What an answer does before its last call: tool loops, sub-agents, hidden agents, summaries, each a model call.

Ordered in the prompt beside the orders of `provider`:
  calls       =3: two calls that end in a tool call, then the answer; `tokens` words each
  subagent    =12: a sub-agent writes so many words inside the first tool call
  sequential  =9: an agent whose output is hidden writes so many words first
  summary     =15: the conversation is summed up in so many words first
  fail_last   =400: the answer's own call is refused with this status
  vendor      =bedrock: the provider's name in the reports; bedrock tells cached tokens apart
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from geko_proxy.demo.librechat.chat import shapes
from geko_proxy.demo.librechat.chat.provider import ModelCall, order_in, tokens_in
from geko_proxy.demo.librechat.chat.shapes import Speaker
from geko_proxy.demo.librechat.express import Json, nanoid, now_iso
from geko_proxy.demo.librechat.settings import Endpoint

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.chat.runs import Run

Hidden = Literal["subagent", "sequential", "summarization"]

_INHERITED = ("delay_ms", "usage", "only")
_SIDE_PROMPT = 30  # tokens that calls beside the answer's own say of their prompts
_TOOL = "search_mcp_everything"
_OUTPUT = "Nothing was found in the archive of the old oak by the river."


class Scene:
    """The calls of one speaker before its answer. vendor: the provider's name in the reports."""

    def __init__(self, run: Run, speaker: Speaker, endpoint: Endpoint, context: Json) -> None:
        self._run, self._speaker, self._endpoint = run, speaker, endpoint
        self._context = context
        self._order: dict[str, str] = {}
        self.vendor = "openAI"

    async def play(self, prompts: list[Json]) -> list[Json]:
        """Make the calls that are ordered; returns what the answer's own call is asked."""
        self._order = order_in(prompts, self._speaker.model)
        self.vendor = self._order.get("vendor", "openAI")
        if "summary" in self._order:
            await self._sum_up(int(self._order["summary"]))
        if "sequential" in self._order:
            await self._run_hidden(int(self._order["sequential"]))
        calls = int(self._order.get("calls", 2 if "subagent" in self._order else 1))
        for number in range(calls - 1):
            words = int(self._order.get("subagent", 0)) if number == 0 else 0
            prompts = await self._use_tool(prompts, words)
        if "fail_last" in self._order:
            prompts = [*prompts, {"role": "user", "content": f"[[status={self._order['fail_last']}]]"}]
        return prompts

    async def _use_tool(self, prompts: list[Json], subagent_words: int) -> list[Json]:
        """A call whose words are the arguments of a tool call; with words a sub-agent is the tool."""
        run, call_id = self._run, nanoid("call_")
        tool: Json = {
            "id": call_id,
            "name": "subagent" if subagent_words else _TOOL,
            "args": "",
            "progress": 0.1,
        }
        call = run.asked(self._speaker, self._endpoint, prompts)
        step: Json | None = None
        async for piece in run.lc.provider.stream(call):
            if step is None:
                step = shapes.tool_step(
                    run.response_id, self._speaker, len(run.content), call_id, tool["name"]
                )
                run.open_step(step, {"type": "tool_call", "tool_call": tool, **self._speaker.tags})
            tool["args"] += piece.text
            run.publish(shapes.tool_delta(step["id"], piece.text))
        run.report(call, self.vendor)
        if subagent_words:
            await self._run_subagent(subagent_words, call_id)
        tool |= {"output": _OUTPUT, "progress": 1}
        if step is not None:
            run.publish(shapes.tool_done(step, tool))
        made = {"role": "assistant", "content": tool["args"]}
        grown = self._context["breakdown"]["messageTokens"] + tokens_in(tool["args"]) + tokens_in(_OUTPUT)
        self._announce(grown, 2)
        return [*prompts, made, {"role": "tool", "content": _OUTPUT}]

    async def _run_subagent(self, words: int, call_id: str) -> None:
        """A child run: its events come wrapped, its report as usage_type subagent."""
        run, child = self._run, nanoid("run_")
        about = {
            "runId": run.response_id,
            "subagentRunId": child,
            "parentToolCallId": call_id,
            "subagentType": "self",
            "subagentAgentId": f"{self._speaker.agent_id}_sub_1",
            "parentAgentId": self._speaker.agent_id,
        }
        step = shapes.run_step(child, self._speaker, 0, nanoid("msg_"))

        def update(phase: str, data: Json | None = None) -> None:
            wrapped = {**about, "phase": phase, "timestamp": now_iso()} | ({"data": data} if data else {})
            run.publish({"event": "on_subagent_update", "data": wrapped})

        update("start")
        update("run_step", step)
        call = self._side_call("subagent", words)
        async for piece in run.lc.provider.stream(call):
            update("message_delta", shapes.delta(step["id"], "text", piece.text)["data"])
        update("stop")
        run.report(call, self.vendor, "subagent")

    async def _run_hidden(self, words: int) -> None:
        """An agent of a chain with hide_sequential_outputs: nothing shows but its report."""
        call = self._side_call("sequential", words)
        async for _ in self._run.lc.provider.stream(call):
            pass
        self._run.report(call, self.vendor, "sequential")

    async def _sum_up(self, words: int) -> None:
        """A summary of what does not fit any more; then the call is announced again, with a shorter prompt."""
        run, part_id, agent = self._run, nanoid("summary_"), self._speaker.agent_id
        about: Json = {"agentId": agent, "provider": self.vendor, "model": self._speaker.model}
        start = {**about, "messagesToRefineCount": 1, "summaryVersion": 1}
        run.publish({"event": "on_summarize_start", "data": start})
        call, text = self._side_call("summarization", words), ""
        async for piece in run.lc.provider.stream(call):
            text += piece.text
            shown = {"type": "summary", "content": [{"type": "text", "text": piece.text}], **about}
            run.publish({"event": "on_summarize_delta", "data": {"id": part_id, "delta": {"summary": shown}}})
        run.report(call, self.vendor, "summarization")
        whole = {"type": "summary", "content": [{"type": "text", "text": text}], **about}
        run.publish(
            {"event": "on_summarize_complete", "data": {"id": part_id, "agentId": agent, "summary": whole}}
        )
        self._announce(min(self._context["breakdown"]["messageTokens"], 10 + tokens_in(text)), 0)

    def _announce(self, message_tokens: int, more_messages: int) -> None:
        count = self._context["breakdown"]["messageCount"] + more_messages
        self._context = shapes.recalled(self._context, message_tokens, count)
        self._run.show_context(self._context)

    def _side_call(self, purpose: Hidden, words: int) -> ModelCall:
        kept = " ".join(f"{name}={self._order[name]}" for name in _INHERITED if name in self._order)
        order = f"[[tokens={words} prompt={_SIDE_PROMPT} {kept}]]"
        call = self._run.asked(self._speaker, self._endpoint, [{"role": "user", "content": order}])
        call.purpose = purpose
        return call
