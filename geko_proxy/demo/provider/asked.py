"""What a call asks, whatever its API: model, user, the user's last text, tools, and how many tokens that is.

Prompt tokens are counted by OpenAI's published rule ("How to count tokens with tiktoken", OpenAI Cookbook): 3 a message
and those of its role and texts, 3 for the whole; definitions of tools as their JSON. Pictures by their provider's rule.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from geko_proxy.metering.prompt_estimate import image_tokens, size_of_data
from geko_proxy.metering.tokens import TokenCounter

PER_MESSAGE: Final = 3
PER_PROMPT: Final = 3
_PICTURES: Final = ("image_url", "input_image", "image")

Json = dict[str, Any]


class BadCall(Exception):
    """A body that the API refuses; param: the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Tool(NamedTuple):
    """A tool that the model may ask for. schema: JSON Schema of its arguments."""

    name: str
    schema: Json


@dataclass(slots=True)
class Said:
    """A message: what it says, other texts of its prompt, tokens of pictures, and how many tools answer in it."""

    role: str
    texts: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    results: int = 0


@dataclass(slots=True)
class Asked:
    """A call, read."""

    api: str
    model: str
    user: str
    stream: bool
    said: list[Said]
    tools: list[Tool] = field(default_factory=list)
    max_tokens: int | None = None
    tool_tokens: int = 0
    wants_usage: bool = False

    @property
    def last_user(self) -> str:
        """What the user said last."""
        return next((" ".join(s.texts) for s in reversed(self.said) if s.role == "user" and s.texts), "")

    @property
    def results(self) -> int:
        """How many tools have answered since the user spoke."""
        found = 0
        for each in reversed(self.said):
            if each.role == "user" and each.texts:
                break
            found += each.results
        return found

    def prompt_tokens(self, per_picture: int | None = None) -> int:
        """The whole prompt; per_picture: instead of the providers' rules."""
        total = PER_PROMPT + self.tool_tokens
        for each in self.said:
            total += PER_MESSAGE + count(each.role) + sum(map(count, each.texts + each.others))
            total += sum(each.pictures) if per_picture is None else per_picture * len(each.pictures)
        return total


@functools.cache
def _counter() -> TokenCounter:
    return TokenCounter()


@functools.lru_cache(maxsize=4096)
def count(text: str) -> int:
    """Tokens of a text (o200k_base)."""
    return _counter().count(text)


def field_of(body: Json, name: str, kind: type | tuple[type, ...], default: Any) -> Any:
    """A field of the right type; null is as absent. Raises BadCall."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise BadCall(f"Invalid type for '{name}'.", name)
    return value


def model_of(body: Json) -> str:
    """The model's name. Raises BadCall."""
    model = str(field_of(body, "model", str, ""))
    if not model:
        raise BadCall("you must provide a model parameter", "model")
    return model


def chat(body: Json) -> Asked:
    """Chat Completions (platform.openai.com/docs/api-reference/chat/create)."""
    messages = field_of(body, "messages", list, [])
    if not messages:
        raise BadCall("'messages' is too short - expected at least 1 message.", "messages")
    model = model_of(body)
    options = field_of(body, "stream_options", dict, {})
    tools = [t["function"] for t in field_of(body, "tools", list, []) if _is_function(t)]
    return Asked(
        "chat_completions",
        model,
        str(field_of(body, "user", str, "")),
        bool(field_of(body, "stream", bool, False)),
        [_message(each, model) for each in messages if isinstance(each, dict)],
        [Tool(str(t["name"]), t.get("parameters") or {}) for t in tools],
        field_of(body, "max_completion_tokens", int, None) or field_of(body, "max_tokens", int, None),
        _json_tokens(tools),
        options.get("include_usage") is True,
    )


def responses(body: Json) -> Asked:
    """Responses (platform.openai.com/docs/api-reference/responses/create)."""
    given = field_of(body, "input", (str, list), "")
    if not given:
        raise BadCall("Missing required parameter: 'input'.", "input")
    model = model_of(body)
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    instructions = field_of(body, "instructions", str, "")
    system = [{"role": "system", "content": instructions}] if instructions else []
    tools = [
        t for t in field_of(body, "tools", list, []) if isinstance(t, dict) and t.get("type") == "function"
    ]
    return Asked(
        "responses",
        model,
        str(field_of(body, "user", str, "")),
        bool(field_of(body, "stream", bool, False)),
        [_item(each, model) for each in [*system, *items] if isinstance(each, dict)],
        [Tool(str(t.get("name")), t.get("parameters") or {}) for t in tools],
        field_of(body, "max_output_tokens", int, None),
        _json_tokens(tools),
    )


def messages(body: Json) -> Asked:
    """Anthropic's Messages (docs.anthropic.com/en/api/messages); the user is `metadata.user_id`."""
    given = field_of(body, "messages", list, [])
    if not given:
        raise BadCall("messages: at least one message is required", "messages")
    model = model_of(body)
    limit = field_of(body, "max_tokens", int, None)
    if limit is None:
        raise BadCall("max_tokens: Field required", "max_tokens")
    system = field_of(body, "system", (str, list), "")
    first = [{"role": "system", "content": system}] if system else []
    tools = [t for t in field_of(body, "tools", list, []) if isinstance(t, dict) and t.get("name")]
    metadata = field_of(body, "metadata", dict, {})
    return Asked(
        "messages",
        model,
        str(metadata.get("user_id") or ""),
        bool(field_of(body, "stream", bool, False)),
        [_message(each, model) for each in [*first, *given] if isinstance(each, dict)],
        [Tool(str(t["name"]), t.get("input_schema") or {}) for t in tools],
        limit,
        _json_tokens(tools),
    )


def _is_function(tool: object) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("function"), dict) and "name" in tool["function"]


def _json_tokens(tools: list[Json]) -> int:
    return count(msgspec.json.encode(tools).decode()) if tools else 0


def _message(message: Json, model: str) -> Said:
    said = Said(str(message.get("role") or ""))
    if isinstance(message.get("name"), str):
        said.others.append(message["name"])
    _read_content(message.get("content"), model, said)
    for call in _parts(message.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict):
            said.others += [str(function.get("name") or ""), str(function.get("arguments") or "")]
    said.results += said.role == "tool"
    return said


def _item(item: Json, model: str) -> Said:
    """An item of a Responses input: a message, a tool call or its output."""
    kind = item.get("type")
    if kind == "function_call":
        asked = [str(item.get("name") or ""), str(item.get("arguments") or "")]
        return Said("assistant", others=asked)
    if kind == "function_call_output":
        return Said("tool", others=[str(item.get("output") or "")], results=1)
    return _message(item, model)


def _read_content(content: object, model: str, said: Said) -> None:
    """A message's content, string or parts; what a tool answers is not said by the user."""
    if isinstance(content, str):
        said.texts += [content] if content else []
        return
    for part in _parts(content):
        kind = part.get("type")
        if kind in _PICTURES:
            said.pictures.append(_picture(part, model))
        elif kind == "tool_result":
            inner = Said("tool")
            _read_content(part.get("content"), model, inner)
            said.others += inner.texts + inner.others
            said.pictures += inner.pictures
            said.results += 1
        elif kind == "tool_use":
            given = part.get("input")
            said.others += [str(part.get("name") or ""), msgspec.json.encode(given or {}).decode()]
        elif isinstance(part.get("text"), str):
            said.texts.append(part["text"])


def _parts(content: object) -> Iterator[Json]:
    return (part for part in content if isinstance(part, dict)) if isinstance(content, list) else iter(())


def _picture(part: Json, model: str) -> int:
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, dict) else url
    source = part.get("source")
    if isinstance(source, dict):
        url = f"data:{source.get('media_type')};base64,{source.get('data')}"
    return image_tokens(size_of_data(url) if isinstance(url, str) else None, model)
