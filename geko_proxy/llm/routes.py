"""What the internal listener serves, as one literal table: `/llm/{provider}/v1/…`, and what operators look at."""

from __future__ import annotations

from typing import Final

from geko_proxy.exchange import Route
from geko_proxy.librechat import Rule
from geko_proxy.routing import Match, RouteTable

API: Final = "/llm/{provider}/v1"

# The API of an operation is what `wire.model_call` knows it by; the provider's path is the one after v1.
ROWS: Final[tuple[tuple[str, str, Rule], ...]] = (
    ("POST", f"{API}/chat/completions", Rule(Route.LLM, "chat_completions")),
    ("POST", f"{API}/responses", Rule(Route.LLM, "responses")),
    ("POST", f"{API}/messages", Rule(Route.LLM, "messages")),
    ("POST", f"{API}/embeddings", Rule(Route.LLM, "embeddings")),
    ("POST", f"{API}/images/generations", Rule(Route.LLM, "images")),
    ("POST", f"{API}/audio/speech", Rule(Route.LLM, "audio")),
    ("GET", f"{API}/models", Rule(Route.LLM, "models")),
    ("GET", "/metrics", Rule(Route.PUBLIC, "metrics")),
    ("GET", "/healthz", Rule(Route.PUBLIC, "health")),
)
UNKNOWN: Final = Rule(Route.BLOCKED, "unknown")


class LlmClassifier:
    """Finds the rule of a request to the internal listener; the counterpart of `librechat.Classifier`."""

    def __init__(self) -> None:
        self._table = RouteTable(ROWS)

    def classify(self, method: str, path: str) -> Match[Rule]:
        """The rule for a normalised path; a rule is always found."""
        return self._table.match(method, path) or Match(UNKNOWN, {})

    def methods(self, path: str) -> set[str]:
        """The methods that are served under a path."""
        return self._table.methods(path)
