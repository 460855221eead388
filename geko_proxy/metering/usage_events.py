"""Reads LibreChat's decoded SSE payloads for metering: what was charged, which text was made, how long the prompt is.

Pure functions; whatever is missing or of a wrong type counts as nothing (contract §4.5–4.7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from geko_proxy.metering.ledger import Charge, Source

TOKEN_USAGE: Final = "on_token_usage"  # noqa: S105  the name of an event, no password
CONTEXT_USAGE: Final = "on_context_usage"
RUN_STEP: Final = "on_run_step"
RUN_STEP_DELTA: Final = "on_run_step_delta"
MESSAGE_DELTA: Final = "on_message_delta"
REASONING_DELTA: Final = "on_reasoning_delta"
SUBAGENT_UPDATE: Final = "on_subagent_update"
SUMMARIZE_DELTA: Final = "on_summarize_delta"

# Phases of on_subagent_update and the event whose data each one wraps (LibreChat callbacks.js).
SUBAGENT_PHASES: Final[Mapping[str, str]] = {
    "run_step": RUN_STEP,
    "run_step_delta": RUN_STEP_DELTA,
    "message_delta": MESSAGE_DELTA,
    "reasoning_delta": REASONING_DELTA,
}

# LibreChat's cacheSubsetProviders: their input_tokens hold the cached tokens; Bedrock's do not (contract §4.6).
CACHE_IN_INPUT: Final = frozenset(
    {"openai", "azureopenai", "google", "vertexai", "xai", "deepseek", "openrouter", "moonshot", "anthropic"}
)
CACHE_BESIDE_INPUT: Final = frozenset({"bedrock"})

MAX_TOKENS: Final = 10**12  # a larger number is nonsense, and sums must fit a bigint
MAX_NAME_CHARS: Final = 200
MAX_SEQ: Final = 2**31 - 1


def charge_of(data: Mapping[str, Any]) -> Charge:
    """The charge of one completed model call.

    data: the `data` of an on_token_usage event. input_tokens of the charge hold the whole prompt: where the
    provider reports cached tokens apart (Bedrock; an unknown provider with more cached than input tokens) they are
    added. What total_tokens has more than prompt and output is hidden reasoning. A missing `seq` becomes 0.
    """
    details = data.get("input_token_details")
    details = details if isinstance(details, dict) else {}
    cached = tokens_of(details.get("cache_read"))
    cache = cached + tokens_of(details.get("cache_creation"))
    provider = name_of(data.get("provider"))
    prompt = tokens_of(data.get("input_tokens"))
    if not input_holds_cache(provider, prompt, cache):
        prompt += cache
    output = tokens_of(data.get("output_tokens"))
    return Charge(
        run_id=name_of(data.get("runId")),
        seq=min(tokens_of(data.get("seq")), MAX_SEQ),
        kind=name_of(data.get("usage_type")) or "chat",
        model=name_of(data.get("model")),
        provider=provider,
        input_tokens=prompt,
        output_tokens=output,
        cached_tokens=cached,
        reasoning_tokens=max(0, tokens_of(data.get("total_tokens")) - prompt - output),
    )


def stored_charge(reply: Mapping[str, Any], model: str) -> Charge | None:
    """What LibreChat stored with an answer: the sum of all reports (`metadata.usage`, contract §4.6); None: nothing.

    reply: the message. Its input leaves cached tokens out and its output holds hidden reasoning, whatever the provider.
    """
    metadata = reply.get("metadata")
    usage = metadata.get("usage") if isinstance(metadata, dict) else None
    if not isinstance(usage, dict):
        return None
    cached = tokens_of(usage.get("cacheRead"))
    prompt = tokens_of(usage.get("input")) + cached + tokens_of(usage.get("cacheWrite"))
    output = tokens_of(usage.get("output"))
    if not prompt + output:
        return None
    return Charge(
        run_id=name_of(reply.get("messageId")),
        seq=-1,
        kind="chat",
        model=model,
        provider="",
        input_tokens=prompt,
        output_tokens=output,
        cached_tokens=cached,
        source=Source.RECOVERED,
    )


def input_holds_cache(provider: str, input_tokens: int, cache_tokens: int) -> bool:
    """Whether a provider's input_tokens already hold its cached tokens; by their size if it is not a known one."""
    name = provider.lower()
    if name in CACHE_IN_INPUT:
        return True
    return name not in CACHE_BESIDE_INPUT and cache_tokens <= input_tokens


def prompt_of(data: Mapping[str, Any]) -> int:
    """The prompt's tokens as LibreChat estimates them before the call.

    data: the `data` of an on_context_usage event. breakdown.messageTokens + breakdown.instructionTokens: the
    messages after pruning, and all that stands before them (instructionTokens is system prompt + dynamic
    instructions + tool schemas + summary, so those fields must not be added again). In every recording this equals
    contextBudget - remainingContextTokens, which serves where the breakdown is missing; prePruneContextTokens is
    what would have been sent without pruning. Pictures are in it by OpenAI's rule without its shrinking, or
    Anthropic's with a floor of 1024 (LibreChat's estimateMediaTokensForMessage; 267 for 64 × 48 in recording 57);
    what a provider adds by itself is not: 22 for a real 24 in recording 88.
    """
    breakdown = data.get("breakdown")
    if isinstance(breakdown, dict) and "messageTokens" in breakdown:
        return tokens_of(breakdown["messageTokens"]) + tokens_of(breakdown.get("instructionTokens"))
    return max(0, tokens_of(data.get("contextBudget")) - tokens_of(data.get("remainingContextTokens")))


def text_of(event: Mapping[str, Any]) -> str:
    """The text that a model made in this event: answer and reasoning deltas, arguments of tool calls, summaries,
    also inside a sub-agent's update; "" for every other event.
    """
    name, data = event.get("event"), event.get("data")
    if not isinstance(data, dict) or not isinstance(name, str):
        return ""
    if name == SUBAGENT_UPDATE:
        name, data = unwrap(data)
    reader = TEXT_READERS.get(name)
    return reader(data) if reader is not None else ""


def unwrap(data: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The event inside a sub-agent's update: its name ("" if it has none) and data."""
    phase, inner = data.get("phase"), data.get("data")
    if not isinstance(phase, str) or not isinstance(inner, dict):
        return "", {}
    return SUBAGENT_PHASES.get(phase, ""), inner


def delta_text(data: Mapping[str, Any]) -> str:
    """The text of an on_message_delta's or on_reasoning_delta's data."""
    delta = data.get("delta")
    if not isinstance(delta, dict):
        return ""
    content = delta.get("content")
    if type(content) is list and len(content) == 1:
        return part_text(content[0])
    return content_text(content)


class _Part(msgspec.Struct, gc=False):
    type: Literal["text", "think"]
    text: str = ""
    think: str = ""


class _Delta(msgspec.Struct, gc=False):
    content: tuple[_Part]


class _DeltaData(msgspec.Struct, gc=False):
    id: str
    delta: _Delta


class _DeltaEvent(msgspec.Struct, gc=False):
    event: Literal["on_message_delta", "on_reasoning_delta"]
    data: _DeltaData


_decode_delta = msgspec.json.Decoder(_DeltaEvent).decode
_DELTA_STARTS: Final = (b'{"event":"on_message_delta"', b'{"event":"on_reasoning_delta"')


def step_and_text(event: bytes) -> tuple[str, str] | None:
    """Step id and text of a delta of the usual shape, read without building its JSON; None: read it with `text_of`.

    event: the event's data, JSON. Gives the same text as `delta_text`, in a third of the time.
    """
    if not event.startswith(_DELTA_STARTS):
        return None
    try:
        data = _decode_delta(event).data
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    part = data.delta.content[0]
    return data.id, part.text if part.type == "text" else part.think


def content_text(content: Any) -> str:
    """The text of content parts: a list of them, or a single one."""
    if isinstance(content, list):
        return "".join(part_text(part) for part in content)
    return part_text(content)


def part_text(part: Any) -> str:
    """The text that a model made in one content part; "" for errors, images and the outputs of tools."""
    if type(part) is not dict:
        return ""
    kind = part.get("type")
    if kind in ("text", "think"):
        text = part.get(kind)
        if type(text) is str:
            return text
        value = text.get("value") if isinstance(text, dict) else None
        return value if isinstance(value, str) else ""
    if kind == "tool_call":
        return arguments_text([part.get("tool_call")])
    return ""


def arguments_text(calls: Any) -> str:
    """The arguments of tool calls as the model wrote them; LibreChat sends text or a parsed object."""
    if not isinstance(calls, list):
        return ""
    return "".join(one_call_text(call) for call in calls if isinstance(call, dict))


def one_call_text(call: Mapping[str, Any]) -> str:
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, dict) else call.get("args")
    if isinstance(arguments, str):
        return arguments
    return msgspec.json.encode(arguments).decode() if arguments and isinstance(arguments, dict) else ""


def run_step_text(data: Mapping[str, Any]) -> str:
    """The arguments in an on_run_step: there only if the provider does not stream them."""
    details = data.get("stepDetails")
    return arguments_text(details.get("tool_calls")) if isinstance(details, dict) else ""


def run_step_delta_text(data: Mapping[str, Any]) -> str:
    delta = data.get("delta")
    return arguments_text(delta.get("tool_calls")) if isinstance(delta, dict) else ""


def summarize_delta_text(data: Mapping[str, Any]) -> str:
    delta = data.get("delta")
    summary = delta.get("summary") if isinstance(delta, dict) else None
    return content_text(summary.get("content")) if isinstance(summary, dict) else ""


TEXT_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    MESSAGE_DELTA: delta_text,
    REASONING_DELTA: delta_text,
    RUN_STEP: run_step_text,
    RUN_STEP_DELTA: run_step_delta_text,
    SUMMARIZE_DELTA: summarize_delta_text,
}


def tokens_of(value: Any) -> int:
    """A number of tokens from outside; 0 for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # not NaN
        return 0
    return int(min(max(0, value), MAX_TOKENS))


def name_of(value: Any) -> str:
    """A short name from outside, as the database can store it; "" for what is none."""
    return value.replace("\x00", "")[:MAX_NAME_CHARS] if isinstance(value, str) else ""


def dicts_in(value: Any) -> Iterable[dict[str, Any]]:
    """The JSON objects of what should be a list of them."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
