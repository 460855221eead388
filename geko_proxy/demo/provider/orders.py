"""What the caller orders the provider to do, in the words of `demo.librechat.chat.provider`.

An order stands in the last text of the user, `[[tokens=200 delay_ms=5]]`, in the model's name behind a tilde,
`gpt-4o~usage=never,first_ms=500`, or is standing: `PUT /orders {"gpt-4o": "status=503", "*": "delay_ms=5"}`. The
user's text wins over the model's name, that over standing orders.
  tokens      words to answer (one word is one token)
  delay_ms    pause before each word; first_ms: pause before anything
  status      fail with this HTTP status; message: its text (no spaces); code: its code; retry_after: seconds, a header
  die_after   drop the connection after so many words; error_after: send an error event instead; hang_after: go silent
  times       =2: fail, die or hang only the first two times that this is asked
  prompt      say this many prompt tokens instead of counting; image: so many for each picture
  cached      say this many of the prompt tokens came from a cache; cache_write: were put into one (Messages API)
  reasoning   think so many words first; silent: so many tokens of completion that are not shown
  hidden      think so many tokens that are in the total only
  usage       when a chat stream reports usage: asked (default), always, never
  only        =model-name: the order counts only for that model
  echo        =1: answer with the words of the user
  word        =river: answer with this word again and again
  calls       =3: ask for a tool twice, then answer; tool: for the tool of this name (else the first)
  subagent    =12: the first tool is `subagent`, which is told to write so many words
Words that are not in this list are for others (see the stand-in's `scenes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

_ORDER: Final = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_REPORTS: Final = ("asked", "always", "never")
MAX_WORDS: Final = 1_000_000
MAX_PAUSE_MS: Final = 3_600_000


class BadOrder(ValueError):
    """An order that can't be followed; says which word of it."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order, read; see the module."""

    tokens: int | None = None
    delay_ms: float | None = None
    first_ms: float = 0.0
    status: int | None = None
    message: str | None = None
    code: str | None = None
    retry_after: int | None = None
    die_after: int | None = None
    error_after: int | None = None
    hang_after: int | None = None
    times: int | None = None
    prompt: int | None = None
    image: int | None = None
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    silent: int = 0
    hidden: int = 0
    usage: str = "asked"
    echo: bool = False
    word: str | None = None
    calls: int = 1
    tool: str | None = None
    subagent: int = 0

    @classmethod
    def read(cls, words: Mapping[str, str]) -> Self:
        """Raises BadOrder."""
        known = {field.name: str(field.type) for field in fields(cls)}
        return cls(**{name: _value(name, known[name], word) for name, word in words.items() if name in known})

    @property
    def fails(self) -> bool:
        """Whether something is to go wrong."""
        ends = (self.status, self.die_after, self.error_after, self.hang_after)
        return any(each is not None for each in ends)

    def mended(self) -> Order:
        """The same without its failure."""
        wanted = {field.name: getattr(self, field.name) for field in fields(self)}
        return Order(**wanted | dict.fromkeys(("status", "die_after", "error_after", "hang_after")))


def words_of(text: str) -> dict[str, str]:
    """`tokens=200 delay_ms=5`, separated by spaces or commas."""
    return {name: value for name, _, value in (part.partition("=") for part in re.split(r"[\s,]+", text))}


def order_in(text: str, model: str) -> dict[str, str]:
    """The last order in a text, as far as it is for this model."""
    found = _ORDER.findall(text)
    words = words_of(found[-1]) if found else {}
    return words if words.get("only") in (None, model) else {}


def inherited(words: Mapping[str, str]) -> str:
    """What a sub-agent's order has from its parent's."""
    return " ".join(f"{name}={words[name]}" for name in ("delay_ms", "usage") if name in words)


def _value(name: str, kind: str, word: str) -> Any:
    if kind.startswith("str"):
        if name == "usage" and word not in _REPORTS:
            raise BadOrder(f"order {name}={word}: expected one of {', '.join(_REPORTS)}")
        return word
    if kind == "bool":
        return word not in ("", "0")
    try:
        number = float(word) if kind.startswith("float") else int(word)
    except ValueError:
        raise BadOrder(f"order {name}={word}: expected a number") from None
    most = MAX_PAUSE_MS if kind.startswith("float") else MAX_WORDS
    if not 0 <= number <= most:
        raise BadOrder(f"order {name}={word}: expected 0 to {most}")
    return number
