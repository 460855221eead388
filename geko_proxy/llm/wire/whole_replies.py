"""The APIs that answer in one piece: embeddings, pictures, speech, and what is heard (OpenAI's API reference)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from geko_proxy.llm.wire.base import Count, ModelCall, Read, Usage, invalid
from geko_proxy.llm.wire.forms import Form
from geko_proxy.metering.usage_events import tokens_of
from geko_proxy.sse import SseEvent


class WholeReply(ModelCall):
    """A call whose reply is JSON, or sound, in one piece; what streams all the same is passed on as it comes."""

    def read(self, event: SseEvent) -> Read:
        data = event.json if event.data and event.data != b"[DONE]" else None
        if isinstance(data, dict):
            self._take_usage(data.get("usage"))
        return Read("", None)

    def read_reply(self, value: Any) -> str:
        self.over = isinstance(value, dict)
        self.failed = not self.over
        if isinstance(value, dict):
            self._take_usage(value.get("usage"))
        return ""

    def closing(self, notice: str, code: str, counted: Usage) -> Sequence[SseEvent]:
        return (
            SseEvent.message(
                {"error": {"message": notice, "type": "insufficient_quota", "code": code}}, "error"
            ),
        )

    def _take_usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        prompt = tokens_of(usage.get("prompt_tokens", usage.get("input_tokens")))
        output = tokens_of(usage.get("completion_tokens", usage.get("output_tokens")))
        if prompt or output or "total_tokens" in usage:
            hidden = tokens_of(usage.get("total_tokens")) - prompt - output
            # without output the total is the prompt's, whichever of both is missing
            self.usage = Usage(prompt or max(0, hidden), output, 0, max(0, hidden) if prompt else 0)


class Embeddings(WholeReply):
    """One call of POST /embeddings."""

    api: ClassVar[str] = "embeddings"

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body)
        if not isinstance(body.get("input"), str | list):
            raise invalid("input", "expected a text, tokens, or a list of them")

    def prompt_tokens(self, count: Count) -> int:
        """Of the texts; what is given as tokens is as many as there are."""
        return _input_tokens(self._body["input"], count)


class Images(WholeReply):
    """One call of POST /images/generations."""

    api: ClassVar[str] = "images"

    def prompt_tokens(self, count: Count) -> int:
        """Of the prompt; what the picture itself costs only the provider says."""
        prompt = self._body.get("prompt")
        return count(prompt) if isinstance(prompt, str) else 0


class Speech(WholeReply):
    """One call of POST /audio/speech, whose reply is sound."""

    api: ClassVar[str] = "audio"

    def prompt_tokens(self, count: Count) -> int:
        """Of the text to be spoken."""
        text = self._body.get("input")
        return count(text) if isinstance(text, str) else 0


class Transcription(WholeReply):
    """One call of POST /audio/transcriptions or /audio/translations: a form with a file."""

    api: ClassVar[str] = "audio"

    def __init__(self, form: Form) -> None:
        super().__init__({"model": form.text("model")})
        self._form = form

    def prompt_tokens(self, count: Count) -> int:
        """Of the text that goes with the sound; what that costs only the provider says."""
        return count(self._form.text("prompt") or "")

    def body_for(self, model: str) -> bytes:
        return self._form.with_text("model", model)


def _input_tokens(given: Any, count: Count) -> int:
    if isinstance(given, str):
        return count(given)
    if not isinstance(given, list):
        return 1
    return sum(_input_tokens(each, count) for each in given)
