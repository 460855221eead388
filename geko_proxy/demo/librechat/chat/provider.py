"""The model provider, built in: streams words, counts tokens exactly and obeys orders in the prompt.

An order stands in the last user message, for instance `[[tokens=200 delay_ms=5]]`:
  tokens      words to answer (one word is one completion token)
  delay_ms    pause before each word; first_ms: pause before anything
  status      fail with this HTTP status; message: its text (no spaces)
  die_after   drop the connection after so many words
  prompt      say this many prompt tokens instead of counting
  cached      say this many of the prompt tokens came from a cache; cache_write: were put into one
  reasoning   think so many words first
  hidden      think so many tokens unseen: they are in the total only
  image       so many tokens of the prompt for each picture (default 0)
  usage       when a stream reports usage: asked (default), always, never
  only        =model-name: the order counts only for that model
  echo        =1: answer with the words of the user message
  word        =river: answer with this word again and again ("owls" is one token here and two in real vocabularies)
What an answer does beside its last call (tools, sub-agents, summaries) is ordered in the same place: see `scenes`.
A prompt token is a run of letters and digits or one other visible character.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from geko_proxy.demo.librechat.express import Json

WORDS = (
    "the quick brown fox jumps over the lazy dog while seven wise owls watch in quiet wonder "
    "from an old oak by the river"
).split()
_ORDER = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_TOKEN = re.compile(r"\w+|[^\w\s]")


class ProviderError(Exception):
    """The provider answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}{_TROUBLESHOOTING.get(status, '')}")
        self.status = status


class ProviderDied(Exception):
    """The provider dropped the connection; LibreChat's client calls that `terminated`."""


_TROUBLESHOOTING = {
    status: f"\n\nTroubleshooting URL: https://docs.langchain.com/oss/javascript/langchain/errors/{name}/\n"
    for status, name in ((401, "MODEL_AUTHENTICATION"), (404, "MODEL_NOT_FOUND"), (429, "MODEL_RATE_LIMIT"))
}


class Delta(NamedTuple):
    """One piece of an answer; the built-in provider only has text and thoughts. at: which of several tool calls."""

    kind: Literal["text", "think", "tool", "arguments"]
    text: str
    at: int = 0


@dataclass(slots=True)
class ToolCall:
    """A tool that a model asks for; `args` is JSON as the model wrote it."""

    id: str
    name: str
    args: str = ""


class Usage(NamedTuple):
    """Token counts of one call, as the provider reports them.

    prompt: the whole of it, with what was read from a cache (cached) or put into one (written). reasoning: the part of
    completion that was thought; hidden: what was thought beside it.
    """

    prompt: int
    completion: int
    cached: int
    reasoning: int
    written: int = 0
    hidden: int = 0

    @property
    def total(self) -> int:
        """All that the provider bills."""
        return self.prompt + self.completion + self.hidden


@dataclass(slots=True)
class ModelCall:
    """One call of the model. `usage` is filled at the end, when the provider reports it to the caller."""

    model: str
    messages: list[Json]
    purpose: Literal["chat", "title", "agents api", "subagent", "sequential", "summarization", "memory"]
    endpoint: str
    user_id: str
    conversation_id: str | None = None
    message_id: str | None = None
    asks_usage: bool = False
    max_tokens: int | None = None
    usage: Usage | None = None
    parent_id: str | None = None
    tools: list[Json] = field(default_factory=list)
    asked_tools: list[ToolCall] = field(default_factory=list)
    answer_id: str = ""


class ModelProvider(Protocol):
    """Who answers model calls: the built-in provider, or `llm.client` over HTTP."""

    log: deque[Json]

    def stream(self, call: ModelCall) -> AsyncIterator[Delta]:
        """Yield the answer. Raises ProviderError or ProviderDied."""
        ...

    async def complete(self, call: ModelCall) -> str:
        """Answer in one piece. Raises like `stream`."""
        ...


@dataclass(slots=True)
class _Plan:
    words: list[str]
    reasoning: int
    prompt: int
    cached: int
    written: int
    hidden: int
    delay_s: float
    first_s: float
    die_after: int | None
    reports: Literal["asked", "always", "never"]
    status: int | None
    message: str

    def usage(self, sent: int) -> Usage:
        thought = min(self.reasoning, sent)
        return Usage(self.prompt, sent, self.cached, thought, self.written, self.hidden if sent else 0)


def tokens_in(text: str) -> int:
    """Count as the provider counts."""
    return len(_TOKEN.findall(text))


def text_of(content: object) -> str:
    """The text of an OpenAI message's content, string or parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))


def pictures_in(content: object) -> int:
    """How many pictures an OpenAI message's content has."""
    parts = content if isinstance(content, list) else []
    return sum(isinstance(part, dict) and part.get("type") in ("image_url", "input_image") for part in parts)


@dataclass(slots=True)
class Provider:
    """Answers model calls; `log` has an entry for each of the last calls with what was really produced."""

    default_tokens: int
    default_delay_ms: float
    retries: int = 0
    retry_s: float = 0.0
    log: deque[Json] = field(default_factory=lambda: deque(maxlen=5000))

    async def stream(self, call: ModelCall) -> AsyncIterator[Delta]:
        """Yield the answer word by word; a 5xx is tried again. Raises ProviderError or ProviderDied."""
        for attempt in range(self.retries + 1):
            try:
                async with aclosing(self._stream_once(call)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except ProviderError as failed:
                if failed.status < 500 or attempt == self.retries:
                    raise
            await asyncio.sleep(self.retry_s * 2**attempt)

    async def _stream_once(self, call: ModelCall) -> AsyncGenerator[Delta, None]:
        plan = self._plan(call)
        entry = self._entry(call, stream=True)
        try:
            async for delta in self._produce(plan, entry):
                yield delta
            entry["outcome"] = "done"
        except (asyncio.CancelledError, GeneratorExit):
            entry["outcome"] = "client went away"
            raise
        finally:
            entry.update(usage=_usage_json(plan.usage(entry["sent"])), ended_at=time.time())
        if plan.reports == "always" or (call.asks_usage and plan.reports == "asked"):
            call.usage = plan.usage(entry["sent"])
            entry["usage_sent"] = True

    async def complete(self, call: ModelCall) -> str:
        """Answer in one piece (usage is reported unless the order says never). Raises like `stream`."""
        plan = self._plan(call)
        entry = self._entry(call, stream=False)
        text = [delta.text async for delta in self._produce(plan, entry) if delta.kind == "text"]
        entry.update(outcome="done", usage=_usage_json(plan.usage(entry["sent"])), ended_at=time.time())
        if plan.reports != "never":
            call.usage = plan.usage(entry["sent"])
            entry["usage_sent"] = True
        return "".join(text)

    async def _produce(self, plan: _Plan, entry: Json) -> AsyncIterator[Delta]:
        await asyncio.sleep(plan.first_s)
        if plan.status is not None:
            entry["outcome"] = f"status {plan.status}"
            raise ProviderError(plan.status, plan.message)
        total = plan.reasoning + len(plan.words)
        for at in range(total):
            if plan.die_after is not None and at >= plan.die_after:
                entry["outcome"] = "died"
                raise ProviderDied("terminated")
            await asyncio.sleep(plan.delay_s)
            entry["sent"] = at + 1
            if at < plan.reasoning:
                yield Delta("think", "hmm ")
            else:
                yield Delta("text", plan.words[at - plan.reasoning] + (" " if at + 1 < total else ""))

    def _plan(self, call: ModelCall) -> _Plan:
        users = [text_of(m.get("content")) for m in call.messages if m.get("role") == "user"]
        order = order_in(call.messages, call.model)
        count = int(order.get("tokens", self.default_tokens))
        count = min(count, call.max_tokens) if call.max_tokens else count
        words = [WORDS[at % len(WORDS)] for at in range(count)]
        if order.get("word"):
            words = [order["word"]] * count
        if order.get("echo"):
            words = users[-1].split() or ["-"]
        counted = sum(tokens_in(text_of(m.get("content"))) + 4 for m in call.messages)
        counted += int(order.get("image", 0)) * sum(pictures_in(m.get("content")) for m in call.messages)
        reports = order.get("usage", "asked")
        return _Plan(
            words=words,
            reasoning=int(order.get("reasoning", 0)),
            prompt=int(order.get("prompt", counted)),
            cached=int(order.get("cached", 0)),
            written=int(order.get("cache_write", 0)),
            hidden=int(order.get("hidden", 0)),
            delay_s=float(order.get("delay_ms", self.default_delay_ms)) / 1000,
            first_s=float(order.get("first_ms", 0)) / 1000,
            die_after=int(order["die_after"]) if "die_after" in order else None,
            reports="always" if reports == "always" else "never" if reports == "never" else "asked",
            status=int(order["status"]) if "status" in order else None,
            message=order.get("message", f"mock failure {order.get('status')}"),
        )

    def _entry(self, call: ModelCall, *, stream: bool) -> Json:
        entry: Json = {
            "at": time.time(),
            "ended_at": None,
            "purpose": call.purpose,
            "endpoint": call.endpoint,
            "user": call.user_id,
            "conversation": call.conversation_id,
            "message": call.message_id,
            "body": {"model": call.model, "messages": call.messages, "stream": stream},
            "sent": 0,
            "usage": None,
            "usage_sent": False,
            "outcome": "started",
        }
        self.log.append(entry)
        return entry


def order_in(messages: list[Json], model: str) -> dict[str, str]:
    """The order in the last user message, as far as it is for this model."""
    users = [text_of(m.get("content")) for m in messages if m.get("role") == "user"]
    found = _ORDER.search(users[-1] if users else "")
    order = {k: v for k, _, v in (part.partition("=") for part in found.group(1).split())} if found else {}
    return order if order.get("only") in (None, model) else {}


def _usage_json(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
