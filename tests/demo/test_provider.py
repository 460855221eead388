"""The built-in provider: every order, and counts that are exact whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.demo.librechat.chat.provider import ModelCall, Provider, ProviderDied, ProviderError


def call(text: str, **fields: object) -> ModelCall:
    """A chat call with one user message."""
    messages = [{"role": "user", "content": text}]
    return ModelCall("gpt-4o", messages, "chat", "Mock", "user", **fields)  # type: ignore[arg-type]


async def answer(asked: ModelCall, provider: Provider) -> str:
    """The whole text, thoughts in brackets."""
    pieces = [piece async for piece in provider.stream(asked)]
    return "".join(piece.text if piece.kind == "text" else f"({piece.text})" for piece in pieces)


@pytest.mark.parametrize(
    ("order", "text", "usage"),
    [
        ("tokens=3", "the quick brown", None),
        ("tokens=3 usage=always", "the quick brown", (12, 3, 0, 0)),
        ("tokens=2 usage=always prompt=40 cached=3", "the quick", (40, 2, 3, 0)),
        ("tokens=1 reasoning=2 usage=always", "(hmm )(hmm )the", (16, 3, 0, 2)),
        ("tokens=3 only=other", "the quick brown fox", None),
        ("echo=1", "[[echo=1]]", None),
    ],
)
async def test_orders(order: str, text: str, usage: tuple[int, ...] | None) -> None:
    asked = call(f"[[{order}]]")
    assert await answer(asked, Provider(4, 0)) == text
    if usage is None:
        assert asked.usage is None
    else:
        assert asked.usage is not None
        assert asked.usage[1:4] == usage[1:]


async def test_usage_is_reported_when_asked_unless_never() -> None:
    for order, reported in (("", True), ("[[usage=never]]", False)):
        asked = call(f"hi {order}", asks_usage=True)
        await answer(asked, Provider(4, 0))
        assert (asked.usage is not None) is reported


async def test_max_tokens_caps_the_answer() -> None:
    assert await answer(call("hi", max_tokens=2), Provider(4, 0)) == "the quick"


async def test_failures() -> None:
    provider = Provider(4, 0, retries=2)
    with pytest.raises(ProviderError, match=r"429 slow_down\n\nTroubleshooting"):
        await answer(call("[[status=429 message=slow_down]]"), provider)
    with pytest.raises(ProviderError, match=r"^500 mock failure 500$"):
        await answer(call("[[status=500]]"), provider)
    with pytest.raises(ProviderDied):
        await answer(call("[[die_after=2]]"), provider)
    outcomes = [(entry["outcome"], entry["sent"]) for entry in provider.log]
    assert outcomes == [("status 429", 0), *[("status 500", 0)] * 3, ("died", 2)]


@given(tokens=st.integers(0, 60), reasoning=st.integers(0, 10), text=st.text(max_size=40))
async def test_the_log_agrees_with_what_was_sent(tokens: int, reasoning: int, text: str) -> None:
    provider = Provider(4, 0)
    text = text.replace("[", "(")
    asked = call(f"{text} [[tokens={tokens} reasoning={reasoning} usage=always]]")
    pieces = [piece async for piece in provider.stream(asked)]
    assert asked.usage is not None
    assert asked.usage.completion == len(pieces) == tokens + reasoning == provider.log[0]["sent"]
    assert asked.usage.prompt == provider.log[0]["usage"]["prompt_tokens"]
