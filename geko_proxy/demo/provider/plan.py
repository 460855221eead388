"""What an answer will be, decided before its first byte; and its making, word by word, counted as it is made."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import msgspec

from geko_proxy.demo.provider.asked import Asked, Tool, count
from geko_proxy.demo.provider.books import Entry, Usage
from geko_proxy.demo.provider.orders import MAX_WORDS, Order, inherited

# Each is one token of o200k_base, so that `tokens=200` is 200 by any count.
WORDS: Final = (
    "the quick brown fox jumps over the lazy dog while seven wise birds watch in quiet wonder "
    "from an old oak by the river"
).split()
THOUGHT: Final = " well"
BATCH: Final = 64  # pieces that are written at once when there is no pause between them
Finish = Literal["stop", "length", "tool_calls"]


class Piece(NamedTuple):
    """A piece of an answer; the name of a tool begins its arguments."""

    kind: Literal["think", "text", "tool", "arguments"]
    text: str


class Died(Exception):
    """The connection is to be dropped."""


class BrokeOff(Exception):
    """The stream is to say that something went wrong."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer: its pieces, and what goes wrong. silent: thought tokens of the completion before the first piece."""

    order: Order
    pieces: list[Piece]
    silent: int
    finish: Finish
    prompt: int
    delay_s: float

    def usage(self, completion: int, reasoning: int) -> Usage:
        """Of as much as was made."""
        order = self.order
        return Usage(
            self.prompt,
            completion,
            order.cached,
            order.cache_write,
            reasoning,
            order.hidden if completion else 0,
        )


def plan(
    asked: Asked, words: Mapping[str, str], order: Order, default_tokens: int, default_ms: float
) -> Plan:
    """Decide; words: the order as it came, for sub-agents."""
    prompt = asked.prompt_tokens(order.image) if order.prompt is None else order.prompt
    delay_s = (default_ms if order.delay_ms is None else order.delay_ms) / 1000
    thoughts = [Piece("think", THOUGHT)] * order.reasoning
    limit = MAX_WORDS if asked.max_tokens is None else max(0, asked.max_tokens)
    silent = min(order.silent, limit)
    tool = _tool(asked, order)
    finish: Finish = "stop" if tool is None else "tool_calls"
    said = thoughts + (
        _answer(asked, order, default_tokens) if tool is None else _tool_call(tool, words, order)
    )
    if len(said) > limit - silent or silent < order.silent:
        said, finish = said[: limit - silent], "length"
    return Plan(order, said, silent, finish, prompt, delay_s)


def _tool(asked: Asked, order: Order) -> Tool | None:
    """The tool to ask for now; None when it is time to answer, or when none is offered."""
    calls = max(order.calls, 2 if order.subagent or order.tool else 1)
    if asked.results >= calls - 1:
        return None
    wanted = "subagent" if order.subagent and asked.results == 0 else order.tool
    offered = {tool.name: tool for tool in asked.tools}
    if wanted is not None and wanted in offered:
        return offered[wanted]
    return next((tool for name, tool in offered.items() if name != "subagent"), None)


def _tool_call(tool: Tool, words: Mapping[str, str], order: Order) -> list[Piece]:
    arguments = {name: _argument(name, schema, words, order) for name, schema in _required(tool)}
    text = msgspec.json.encode(arguments).decode() if arguments else '{"query":"' + " ".join(WORDS[:3]) + '"}'
    return [Piece("tool", tool.name), *(Piece("arguments", piece) for piece in _split(text))]


def _required(tool: Tool) -> Iterator[tuple[str, dict[str, Any]]]:
    known = tool.schema.get("properties")
    properties = known if isinstance(known, dict) else {}
    for name in tool.schema.get("required") or properties:
        schema = properties.get(name)
        yield str(name), schema if isinstance(schema, dict) else {}


def _argument(name: str, schema: Mapping[str, Any], words: Mapping[str, str], order: Order) -> Any:
    allowed = schema.get("enum")
    if isinstance(allowed, list) and allowed:
        return allowed[0]
    if schema.get("type") in ("number", "integer"):
        return 1
    if schema.get("type") == "boolean":
        return True
    if schema.get("type") == "array":
        return []
    if schema.get("type") == "object":
        return {}
    if name == "description" and order.subagent:
        return f"Write. [[tokens={order.subagent} {inherited(words)}]]"
    return " ".join(WORDS[: order.tokens or 3])


def _answer(asked: Asked, order: Order, default_tokens: int) -> list[Piece]:
    tokens = default_tokens if order.tokens is None else order.tokens
    words = list(itertools.islice(itertools.cycle(WORDS), tokens))
    if order.word:
        words = [order.word] * tokens
    if order.echo:
        words = asked.last_user.split() or ["-"]
    return [Piece("text", word if at == 0 else f" {word}") for at, word in enumerate(words)]


def _split(text: str) -> list[str]:
    """Cut before spaces: there the tokens of the parts add up to those of the whole (metering.tokens.last_cut)."""
    return re.findall(r" ?[^ ]+| +", text)


async def make(found: Plan, entry: Entry) -> AsyncIterator[list[Piece]]:
    """Yield the pieces as they are made; `entry.usage` holds at any moment what would be billed.

    Raises Died and BrokeOff as ordered.
    """
    order = found.order
    entry.usage = found.usage(0, 0)
    await asyncio.sleep(order.first_ms / 1000)
    completion = reasoning = found.silent
    entry.usage = found.usage(completion, reasoning)
    at, total = 0, len(found.pieces)
    while at < total:
        _fail(order, at)
        if order.hang_after is not None and at >= order.hang_after:
            await asyncio.Event().wait()
        if found.delay_s:
            await asyncio.sleep(found.delay_s)
        batch = found.pieces[at : _batch_end(found, at)]
        at += len(batch)
        for piece in batch:
            tokens = count(piece.text)
            completion += tokens
            reasoning += tokens if piece.kind == "think" else 0
        entry.usage = found.usage(completion, reasoning)
        yield batch
    _fail(order, at, at_end=True)


def _batch_end(found: Plan, at: int) -> int:
    if found.delay_s:
        return at + 1
    order = found.order
    stops = [
        each
        for each in (order.die_after, order.error_after, order.hang_after)
        if each is not None and each > at
    ]
    return min([at + BATCH, *stops])


def _fail(order: Order, at: int, *, at_end: bool = False) -> None:
    if order.die_after is not None and (at_end or at >= order.die_after):
        raise Died
    if order.error_after is not None and (at_end or at >= order.error_after):
        raise BrokeOff
