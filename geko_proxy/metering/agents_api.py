"""Reads the answers of LibreChat's Agents API (contract §6) for a turn's meter: streams of both kinds, and plain JSON.

Its reports differ from those of a chat's stream: chat/completions gives one sum of all calls, responses the numbers of
the last call only (LibreChat's updateTrackerUsage overwrites them), and both leave out what sub-agents used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.metering.usage_events import (
    CACHE_BESIDE_INPUT,
    CONTEXT_USAGE,
    SUMMARIZE_DELTA,
    dicts_in,
    name_of,
    tokens_of,
)

STEP: Final = "call"
ERROR: Final = "\n\nError: "  # how chat/completions tells of a failure when the reply has begun
TEXT_DELTAS: Final = frozenset(
    {
        "response.output_text.delta",
        "response.reasoning.delta",
        "response.refusal.delta",
        "response.function_call_arguments.delta",
    }
)
LAST_EVENTS: Final = frozenset({"response.completed", "response.failed", "response.incomplete"})


class AgentsApiReader:
    """Feeds a meter with one answer.

    prompt: the estimate of the request; provider: the endpoint of the agent's model. over: the answer has come to its
    end, failed: by an error of the provider's.
    """

    def __init__(
        self, meter: TurnMeter, counter: TokenCounter, *, prompt: int, provider: str, model: str
    ) -> None:
        self.over = False
        self.failed = False
        self._meter = meter
        self._count = counter.count
        self._provider, self._model = provider, model
        self._first_prompt = self._prompt = prompt
        self._tool_called = False
        self._calls = self._announced = 0
        self._announce(prompt)

    def read_chunk(self, chunk: Mapping[str, Any]) -> str:
        """Take a chunk of chat/completions; returns the error that it tells of, or ""."""
        for choice in dicts_in(chunk.get("choices")):
            delta = choice.get("delta")
            if not isinstance(delta, dict):
                continue
            content = delta.get("content")
            ends = choice.get("finish_reason") is not None
            if ends and isinstance(content, str) and content.startswith(ERROR):
                self.over = self.failed = True
                return content.removeprefix(ERROR)
            self._take_message(delta)
            self.over = self.over or ends
        self._take_sum(chunk)
        return ""

    def read_event(self, data: Mapping[str, Any]) -> None:
        """Take an event of responses."""
        kind = name_of(data.get("type"))
        if kind in TEXT_DELTAS:
            self._text(data.get("delta"), tool=kind == "response.function_call_arguments.delta")
        elif kind == "response.output_item.added":
            item = data.get("item")
            if isinstance(item, dict) and item.get("type") == "function_call_output":
                self._take_tool_output(item.get("output"))
        elif kind in LAST_EVENTS:
            self.over = True
            self.failed = kind == "response.failed"
            response = data.get("response")
            self._take_last(response if isinstance(response, dict) else {})

    def read_summary(self, name: str, data: Mapping[str, Any]) -> None:
        """Take LibreChat's own events of summaries, which both kinds of stream carry."""
        if name == SUMMARIZE_DELTA:
            self._meter.on_event({"event": name, "data": data})

    def read_completion(self, reply: Mapping[str, Any]) -> None:
        """Take a whole reply of chat/completions."""
        self.over = True
        for choice in dicts_in(reply.get("choices")):
            message = choice.get("message")
            if isinstance(message, dict):
                self._take_message(message)
        self._take_sum(reply)

    def read_response(self, reply: Mapping[str, Any]) -> None:
        """Take a whole reply of responses. Its items stand in no order of time: tool calls, then the text."""
        self.over = True
        for item in dicts_in(reply.get("output")):
            if item.get("type") == "function_call":
                self._text(item.get("arguments"), tool=True)
            elif item.get("type") == "function_call_output":
                self._take_tool_output(item.get("output"))
            else:
                self._texts(part.get("text") for part in dicts_in(item.get("content")))
        self._take_last(reply)

    def _take_message(self, message: Mapping[str, Any]) -> None:
        self._texts((message.get("reasoning"), message.get("content")))
        for call in dicts_in(message.get("tool_calls")):
            function = call.get("function")
            self._text(function.get("arguments") if isinstance(function, dict) else None, tool=True)

    def _texts(self, texts: Iterable[Any]) -> None:
        for text in texts:
            self._text(text)

    def _text(self, text: Any, *, tool: bool = False) -> None:
        if not isinstance(text, str) or not text:
            return
        if (
            self._tool_called and not tool
        ):  # the model goes on: that is another call, with all of this in its prompt
            self._announce(self._prompt + self._written())
        self._tool_called = tool
        self._meter.on_text(f"{STEP} {self._calls}", text)

    def _take_tool_output(self, output: Any) -> None:
        self._prompt += self._count(output) if isinstance(output, str) else 0
        if self._tool_called:
            self._announce(self._prompt + self._written())
            self._tool_called = False

    def _written(self) -> int:
        return max(0, self._meter.consumed - self._announced)

    def _announce(self, prompt: int) -> None:
        self._calls += 1
        self._announced += prompt
        breakdown = {"messageTokens": prompt}
        self._meter.on_event(
            {"event": CONTEXT_USAGE, "data": {"runId": "agents-api", "breakdown": breakdown}}
        )

    def _take_sum(self, reply: Mapping[str, Any]) -> None:
        usage = reply.get("usage")
        if not isinstance(usage, dict):
            return
        data = self._report(reply, usage, "prompt_tokens", "completion_tokens")
        if data is None:
            return
        # Bedrock tells cached tokens apart, and this reply leaves them out: the estimate is the better number then
        least = self._first_prompt if self._provider.lower() in CACHE_BESIDE_INPUT else 0
        self._meter.on_sum(data, least_prompt=least)

    def _take_last(self, response: Mapping[str, Any]) -> None:
        usage = response.get("usage")
        if not isinstance(usage, dict):
            return
        data = self._report(response, usage, "input_tokens", "output_tokens")
        if data is not None:
            details = usage.get("input_tokens_details")
            cached = details.get("cached_tokens") if isinstance(details, dict) else 0
            self._meter.on_last({**data, "input_token_details": {"cache_read": tokens_of(cached)}})

    def _report(
        self, reply: Mapping[str, Any], usage: Mapping[str, Any], prompt: str, output: str
    ) -> dict[str, Any] | None:
        """What `on_token_usage` would say; None for the zeros of a provider that reports nothing."""
        tokens = tokens_of(usage.get(prompt)), tokens_of(usage.get(output))
        if not any(tokens):
            return None
        return {
            "input_tokens": tokens[0],
            "output_tokens": tokens[1],
            "model": self._model,
            "provider": self._provider,
            "runId": name_of(reply.get("id")),
            "seq": 1,
        }
