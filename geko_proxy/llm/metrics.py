"""What the LLM side tells Prometheus. Labels are of what is configured; whatever callers make up is "other"."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from geko_proxy.llm.breaker import State

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"
MAX_MODELS: Final = 200  # of one provider
FIRST_BYTE_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
BREAKER_VALUES: Final = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


class LlmMetrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models: dict[str, set[str]] = {}
        self._attempts: dict[tuple[str, str, str, str], Counter] = {}
        self._first_bytes: dict[tuple[str, str], Histogram] = {}
        place = ["provider", "model", "deployment"]
        self._requests = Counter(
            "geko_llm_requests",
            "Attempts by their outcome: HTTP status, or connect, timeout, lost, busy, invalid, broke_off.",
            [*place, "status"],
            registry=self.registry,
        )
        self._retries = Counter(
            "geko_llm_retries", "Attempts after a failed one.", ["provider"], registry=self.registry
        )
        self._fallbacks = Counter(
            "geko_llm_fallbacks",
            "Calls that were answered by another target than the one asked.",
            ["provider", "answered_by"],
            registry=self.registry,
        )
        self._breaker = Gauge(
            "geko_llm_breaker_state",
            "0 closed, 1 half-open, 2 open.",
            place,
            registry=self.registry,
        )
        self._queue = Gauge(
            "geko_llm_queue_length",
            "Calls that wait because the provider has no room (429).",
            ["provider"],
            registry=self.registry,
        )
        self._first_byte = Histogram(
            "geko_llm_first_byte_seconds",
            "From the call to the head of the reply that answers it, with waits and failed attempts.",
            ["provider", "model"],
            buckets=FIRST_BYTE_BUCKETS,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "geko_llm_in_flight",
            "Calls that a deployment is answering.",
            ["provider", "deployment"],
            registry=self.registry,
        )

    def add_models(self, provider: str, models: Iterable[str]) -> None:
        """Name models that get labels of their own, at most MAX_MODELS of a provider."""
        known = self._models.setdefault(provider, set())
        for model in models:
            if len(known) >= MAX_MODELS:
                return
            known.add(model)

    def attempt(self, provider: str, model: str, deployment: str, status: str) -> None:
        """An attempt has ended with this status."""
        key = (provider, self._label(provider, model), deployment, status)
        counter = self._attempts.get(key)  # `labels` takes as long as all else in a call's bookkeeping
        if counter is None:
            counter = self._attempts[key] = self._requests.labels(*key)
        counter.inc()

    def retry(self, provider: str) -> None:
        """A call is tried again."""
        self._retries.labels(provider).inc()

    def fallback(self, provider: str, answered_by: str) -> None:
        """A call to `provider` was answered by another target, which may be of the same provider."""
        self._fallbacks.labels(provider, answered_by).inc()

    def breaker(self, provider: str, model: str, deployment: str, state: State) -> None:
        """The state of a circuit."""
        labels = (provider, self._label(provider, model), deployment)
        self._breaker.labels(*labels).set(BREAKER_VALUES[state])

    def queue(self, provider: str, length: int) -> None:
        """How many calls wait."""
        self._queue.labels(provider).set(length)

    def first_byte(self, provider: str, model: str, seconds: float) -> None:
        """A reply's head has come."""
        key = (provider, self._label(provider, model))
        histogram = self._first_bytes.get(key)
        if histogram is None:
            histogram = self._first_bytes[key] = self._first_byte.labels(*key)
        histogram.observe(seconds)

    def in_flight(self, provider: str, deployment: str, count: Callable[[], int]) -> None:
        """Say where the number of calls under way is read whenever somebody asks."""
        self._in_flight.labels(provider, deployment).set_function(count)

    def render(self) -> bytes:
        """Everything in Prometheus' text format, for a reply of CONTENT_TYPE."""
        return generate_latest(self.registry)

    def _label(self, provider: str, model: str) -> str:
        return model if model in self._models.get(provider, ()) else OTHER
