"""What the internal listener serves, as one literal table: `/llm/{provider}/v1/…`, and what operators look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from geko_proxy.exchange import Route
from geko_proxy.librechat import Rule
from geko_proxy.routing import Match, RouteTable

API: Final = "/llm/{provider}/v1"

# By operation, which is also the API that `wire.model_call` knows: the path after a provider's base URL.
PATHS: Final[Mapping[str, str]] = {
    "chat_completions": "/chat/completions",
    "responses": "/responses",
    "messages": "/messages",
    "embeddings": "/embeddings",
    "images": "/images/generations",
    "speech": "/audio/speech",
    "transcriptions": "/audio/transcriptions",
    "translations": "/audio/translations",
}
ROWS: Final[tuple[tuple[str, str, Rule], ...]] = (
    *(("POST", API + path, Rule(Route.LLM, operation)) for operation, path in PATHS.items()),
    ("GET", f"{API}/models", Rule(Route.LLM, "models")),
    # LibreChat asks so where it speaks Anthropic's API: that client appends /v1 by itself, the list of models does not
    ("GET", API.removesuffix("/v1") + "/models", Rule(Route.LLM, "models")),
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
