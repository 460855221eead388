"""The provider's count of a prompt and GEKO's estimate of it are written apart and must agree to the token."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.demo.provider.asked import chat, count
from geko_proxy.llm.wire.prompts import messages_tokens

TEXT = st.text(max_size=40)
NAME = st.text("abc_", min_size=1, max_size=12)
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
PARTS = st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXT) | st.just(PICTURE), max_size=3)
ASKED = st.builds(
    lambda name, text: {"id": "call_1", "type": "function", "function": {"name": name, "arguments": text}},
    NAME,
    TEXT,
)
MESSAGES = st.one_of(
    st.builds(lambda text: {"role": "system", "content": text}, TEXT),
    st.builds(lambda content: {"role": "user", "content": content}, TEXT | PARTS),
    st.builds(
        lambda text, calls: {"role": "assistant", "content": text, "tool_calls": calls},
        TEXT,
        st.lists(ASKED, max_size=2),
    ),
    st.builds(
        lambda text, name: {"role": "tool", "content": text, "name": name, "tool_call_id": "call_1"},
        TEXT,
        NAME,
    ),
)
TOOLS = st.builds(
    lambda name, text: {
        "type": "function",
        "function": {"name": name, "description": text, "parameters": {"type": "object", "properties": {}}},
    },
    NAME,
    TEXT,
)


@given(messages=st.lists(MESSAGES, min_size=1, max_size=5), tools=st.lists(TOOLS, max_size=2))
def test_the_counts_of_a_chats_prompt_agree(messages: list[Any], tools: list[Any]) -> None:
    body = {"model": "gpt-4o", "messages": messages} | ({"tools": tools} if tools else {})
    assert chat(body).prompt_tokens() == messages_tokens(body, "gpt-4o", count)
