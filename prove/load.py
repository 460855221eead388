"""People who chat: messages whose answers are ordered beforehand, and listeners who stay, leave and come back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from geko_proxy.sse import SseFormatError, SseParser
from prove.books import Charged, Produced
from prove.report import Row
from tests.e2e.people import Answer, Person

CLOSE = 0.03  # by so much the charge of an answer that was cut or stopped may differ from what was produced


@dataclass
class Heard:
    """What one listener got. status 0: the connection broke before a reply."""

    status: int = 0
    events: int = 0
    words: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    left: bool = False

    @property
    def outcome(self) -> str:
        """done, aborted (by the quota or a person), error, left, broken, or the status that refused it."""
        if self.status not in (0, 200):
            return str(self.status)
        if self.last.get("final"):
            return "aborted" if self.last.get("aborted") else "done"
        if "error" in self.last:
            return "error"
        return "left" if self.left else "broken"


@dataclass
class Attempt:
    """One message that was sent: when (monotonic seconds), and what came back. status 0: no reply."""

    sent: float
    answered: float
    status: int
    conversation: str | None = None
    retry_after: str | None = None
    text: str = ""


async def send(person: Person, order: str, **fields: Any) -> Attempt:
    """Send a message. order: what the provider is told, as `tokens=12 delay_ms=5`."""
    begun = time.monotonic()
    try:
        answer: Answer = await person.post_chat(f"Please write about this. [[{order}]]", **fields)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Attempt(begun, time.monotonic(), 0, text=type(error).__name__)
    attempt = Attempt(begun, time.monotonic(), answer.status, text=answer.raw[:200].decode(errors="replace"))
    attempt.retry_after = answer.headers.get("Retry-After")
    if answer.status == 200:
        attempt.conversation = str(answer.json["conversationId"])
    return attempt


async def listen(
    person: Person, conversation: str, *, resume: bool = False, leave_after: int | None = None
) -> Heard:
    """Listen to the end, or leave after so many events."""
    heard = Heard()
    parser = SseParser()
    try:
        async with person.subscribed(conversation, "?resume=true" if resume else "") as reply:
            heard.status = reply.status
            if reply.status != 200:
                return heard
            async for chunk in reply.content.iter_any():
                for event in parser.feed(chunk):
                    _take(heard, event.json)
                    if leave_after is not None and heard.events >= leave_after:
                        heard.left = True
                        return heard
    except (aiohttp.ClientError, TimeoutError, OSError, SseFormatError):
        pass
    return heard


def _take(heard: Heard, data: Any) -> None:
    heard.events += 1
    if not isinstance(data, dict):
        return
    heard.last = data
    if data.get("event") == "on_message_delta":
        heard.words += 1


def compare(
    row: Row,
    conversations: Iterable[str],
    produced: Mapping[str, Produced],
    charged: Mapping[str | None, Charged],
    *,
    stopped_may_differ: bool = True,
) -> None:
    """Fill in the amounts; note what differs: nothing where the provider reported, a little where it was stopped."""
    ids = list(conversations)
    missing = Produced(0, reported=False)
    pairs = [(produced.get(each, missing), charged.get(each, Charged())) for each in ids]
    row.provider = sum(made.tokens for made, _ in pairs)
    row.charged = sum(paid.tokens for _, paid in charged.items())
    row.lost = sum(made.tokens > 0 and paid.tokens == 0 for made, paid in pairs)
    row.expect(row.lost == 0, f"{row.lost} turns produced tokens and were charged none")
    wrong = [(made, paid) for made, paid in pairs if made.reported and made.tokens != paid.tokens]
    row.expect(not wrong, f"{len(wrong)} turns are not charged what was reported: {_examples(wrong)}")
    stopped = [(made, paid) for made, paid in pairs if not made.reported and made.tokens]
    if stopped and stopped_may_differ:
        _compare_stopped(row, stopped)


def _compare_stopped(row: Row, stopped: list[tuple[Produced, Charged]]) -> None:
    made, paid = sum(each.tokens for each, _ in stopped), sum(each.tokens for _, each in stopped)
    share = (paid - made) / made
    worst = max(stopped, key=lambda pair: abs(pair[1].tokens - pair[0].tokens) / pair[0].tokens)
    row.notes.append(
        f"{len(stopped)} answers were stopped: {made} tokens produced, {paid} charged ({share:+.2%}); "
        f"the worst one {worst[0].tokens} and {worst[1].tokens}"
    )
    row.expect(
        abs(share) < CLOSE, f"stopped answers are charged {share:+.2%} of what was produced (allowed: 3 %)"
    )
    unmarked = sum(not each.estimated for _, each in stopped)
    row.expect(not unmarked, f"{unmarked} stopped answers are not marked as estimated")


def _examples(wrong: list[tuple[Produced, Charged]]) -> str:
    return ", ".join(f"{made.tokens} reported and {paid.tokens} charged" for made, paid in wrong[:3])


def count(values: Iterable[object]) -> str:
    """As in "3 × 404, 1 × done"."""
    return (
        ", ".join(f"{number} × {value}" for value, number in sorted(Counter(map(str, values)).items()))
        or "none"
    )


async def together(*work: Any) -> list[Any]:
    """Everything at once; the results in order."""
    return list(await asyncio.gather(*work))
