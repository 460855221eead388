"""What every API's call has in common: what it asks, what its reply says, how it ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from geko_proxy.errors import Refused
from geko_proxy.sse import SseEvent

MAX_MODEL_CHARS: Final = 200
OTHER_MODELS: Final = ("models", "fallbacks", "context_window_fallbacks")  # of OpenRouter and LiteLLM
Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one call, as the provider reports them, normalised.

    input_tokens: the whole prompt, cached parts included; cached_tokens: the part of it that came from a cache.
    reasoning_tokens: hidden reasoning, only as far as output_tokens does not hold it.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Read(NamedTuple):
    """What one event of a stream said.

    text: what a tokenizer counts: text, reasoning, refusals, arguments of tools. passed: None passes the event on as it
    is, () drops it, others take its place.
    """

    text: str
    passed: Sequence[SseEvent] | None


class ModelCall(ABC):
    """One call of an API, from its request's body on.

    model: as asked. streams: the caller wants an event stream. is_collected: the provider is asked for one all the
    same, and `collect` makes the reply of it. usage: what the provider reported, None: nothing yet.
    over: the reply has come to its proper end; failed: it told of an error.
    """

    api: ClassVar[str]
    is_collected: bool = False

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body
        self.model = model_of(body)
        self.streams = flag_of(body, "stream")
        self.usage: Usage | None = None
        self.over = False
        self.failed = False

    @abstractmethod
    def prompt_tokens(self, count: Count) -> int:
        """An estimate of the prompt's tokens; count: of a text."""

    def body_for(self, model: str) -> bytes:
        """The request for a provider, which calls the model so."""
        return msgspec.json.encode({**self._body, "model": model})

    @abstractmethod
    def read(self, event: SseEvent) -> Read:
        """Take the next event of a stream. Raises SseFormatError."""

    @abstractmethod
    def read_reply(self, value: Any) -> str:
        """Take a reply in one piece; returns its text."""

    def collect(self, event: SseEvent) -> None:
        """Keep an event that is passed on, for a reply in one piece."""
        raise NotImplementedError

    @property
    def is_whole(self) -> bool:
        """Whether what was collected has its end, also without the stream's."""
        return self.over

    def collected(self) -> Any:
        """The reply in one piece."""
        raise NotImplementedError

    @abstractmethod
    def closing(self, notice: str, code: str, counted: Usage) -> Sequence[SseEvent]:
        """The events that end a stream well-formed which is cut now; counted: what it has used."""


def model_of(body: dict[str, Any]) -> str:
    """The model that a body names. Raises Refused 400."""
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_CHARS or not model.isprintable():
        raise invalid("model", f"expected the name of a model, at most {MAX_MODEL_CHARS} characters")
    for name in OTHER_MODELS:
        if body.get(name):  # no workspace's list of models would have seen them
            raise invalid(name, "a call names one model only")
    return model


def flag_of(body: dict[str, Any], name: str) -> bool:
    """A boolean of a body; missing or null: False. Raises Refused 400."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(name, "expected true or false")
    return bool(value)


def invalid(name: str, text: str) -> Refused:
    """400 for a field of a request."""
    return Refused(400, "invalid_request", f"{name}: {text}.")
