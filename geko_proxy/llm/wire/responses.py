"""OpenAI's Responses (API reference: Responses, Streaming events)."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Any, ClassVar, Final

from geko_proxy.llm.wire.base import Count, ModelCall, Read, Usage, invalid
from geko_proxy.llm.wire.prompts import PER_MESSAGE, PER_PROMPT, tools_tokens, value_tokens
from geko_proxy.metering.usage_events import dicts_in, tokens_of
from geko_proxy.sse import SseEvent

TEXT_DELTAS: Final = frozenset(
    {
        "response.output_text.delta",
        "response.refusal.delta",
        "response.reasoning.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
        "response.mcp_call_arguments.delta",
        "response.custom_tool_call_input.delta",
        "response.code_interpreter_call_code.delta",
    }
)
ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


class Responses(ModelCall):
    """One call of POST /responses. Raises Refused 400 for one in the background, whose usage nobody would see."""

    api: ClassVar[str] = "responses"

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body)
        if not isinstance(body.get("input", ""), str | list):
            raise invalid("input", "expected a text or a list")
        if body.get("background"):
            raise invalid("background", "calls in the background can't be metered")
        self._response: dict[str, Any] = {}
        self._open: list[dict[str, Any]] = []
        self._sequence = 0

    def prompt_tokens(self, count: Count) -> int:
        """As of messages: each item of the input is one, the instructions another."""
        given = self._body.get("input")
        items: list[Any] = [given] if isinstance(given, str) else list(given or ())
        if self._body.get("instructions"):
            items.append(self._body["instructions"])
        total = PER_PROMPT + tools_tokens(self._body.get("tools"), count)
        return total + sum(PER_MESSAGE + value_tokens(item, self.model, count) for item in items)

    def read(self, event: SseEvent) -> Read:
        data = event.json if event.data and event.data != b"[DONE]" else None
        if not isinstance(data, dict):
            return Read("", None)
        kind, text = str(data.get("type")), ""
        if type(data.get("sequence_number")) is int:
            self._sequence = data["sequence_number"]
        if kind in TEXT_DELTAS:
            text = data["delta"] if isinstance(data.get("delta"), str) else ""
        elif kind == "error":
            self.failed = True
        elif isinstance(data.get("response"), dict):
            self._response = data["response"]
            if kind in ENDS:
                self.over, self.failed = True, kind == "response.failed"
                self._take_usage(self._response)
        return Read(text, None)

    def read_reply(self, value: Any) -> str:
        if not isinstance(value, dict):
            self.failed = True
            return ""
        self.over = True
        self.failed = value.get("status") == "failed"
        self._take_usage(value)
        found: list[str] = []
        for item in dicts_in(value.get("output")):
            found += [item["arguments"]] if isinstance(item.get("arguments"), str) else []
            parts = (*dicts_in(item.get("content")), *dicts_in(item.get("summary")))
            found += [part["text"] for part in parts if isinstance(part.get("text"), str)]
        return "".join(found)

    def closing(self, notice: str, code: str, counted: Usage) -> Sequence[SseEvent]:
        usage = {
            "input_tokens": counted.input_tokens,
            "input_tokens_details": {"cached_tokens": counted.cached_tokens},
            "output_tokens": counted.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counted.input_tokens + counted.output_tokens,
        }
        head = {
            "id": "resp_cut",
            "object": "response",
            "created_at": int(time()),
            "model": self.model,
            "output": [],
        }
        response = {**head, **self._response, "status": "incomplete", "usage": usage}
        response["incomplete_details"] = {"reason": "max_output_tokens"}
        last = {"type": "response.incomplete", "sequence_number": self._sequence + 1, "response": response}
        return (SseEvent.message(last, "response.incomplete"),)

    def _take_usage(self, response: dict[str, Any]) -> None:
        usage = response.get("usage")
        if not isinstance(usage, dict):
            return
        prompt, output = tokens_of(usage.get("input_tokens")), tokens_of(usage.get("output_tokens"))
        details = usage.get("input_tokens_details")
        cached = tokens_of(details.get("cached_tokens")) if isinstance(details, dict) else 0
        hidden = max(0, tokens_of(usage.get("total_tokens")) - prompt - output)
        self.usage = Usage(prompt, output, min(cached, prompt), hidden)
