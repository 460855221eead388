"""How many tokens a prompt has, before the provider says so: OpenAI's published rule over all that reaches a model.

Cookbook, "How to count tokens with tiktoken": 3 a message with the tokens of its role and texts, and 3 for the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from geko_proxy.llm.wire.base import Count
from geko_proxy.metering.prompt_estimate import agents_api_prompt
from geko_proxy.metering.usage_events import dicts_in

PER_MESSAGE: Final = 3
PER_PROMPT: Final = 3
NO_TEXT: Final = frozenset({"type", "id", "tool_call_id", "call_id", "status"})


def messages_tokens(body: Mapping[str, Any], model: str, count: Count) -> int:
    """Of `messages` and `tools`."""
    total = PER_PROMPT + tools_tokens(body.get("tools"), count)
    for message in dicts_in(body.get("messages")):
        total += PER_MESSAGE + value_tokens(message, model, count)
    return total


def tools_tokens(tools: Any, count: Count) -> int:
    """Of the definitions of tools, as their JSON."""
    given = [tool.get("function", tool) for tool in dicts_in(tools)]
    return count(msgspec.json.encode(given).decode(errors="replace")) if given else 0


def value_tokens(value: Any, model: str, count: Count) -> int:
    """Of all texts and pictures in a value, each by itself."""
    texts, pictures = agents_api_prompt({"value": _without_names(value)}, model)
    return pictures + sum(count(text) for text in texts)


def _without_names(value: Any) -> Any:
    """A value without what names its parts: types and ids. Pictures keep theirs, by which they are known."""
    if isinstance(value, list):
        return [_without_names(each) for each in value]
    if isinstance(value, Mapping):
        picture = value.get("type") in ("image_url", "input_image", "image")
        kept = {name: each for name, each in value.items() if name not in NO_TEXT}
        return value if picture else {name: _without_names(each) for name, each in kept.items()}
    return value
