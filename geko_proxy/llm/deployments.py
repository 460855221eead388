"""One place where a provider's models are served: its connections, its health, and one attempt at a call."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from geko_proxy.config.llm_settings import DeploymentSettings
from geko_proxy.errors import UpstreamBusy, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from geko_proxy.llm.breaker import Breaker, BreakerOptions, Pass, State
from geko_proxy.llm.provider_headers import ProviderHeaders
from geko_proxy.upstream import Upstream, UpstreamOptions
from geko_proxy.upstream_connection import Lost, UpstreamReply

log = logging.getLogger("geko.llm")

MAX_TRACKED: Final = 256  # models of a deployment whose health or rest is remembered


class Attempt(NamedTuple):
    """What became of one attempt. reply: None when there is none.

    accepted: the provider may have begun to work on it, so that sending it again could be billed twice.
    """

    reply: UpstreamReply | None
    status: str  # for metrics: the HTTP status, or connect, timeout, lost, busy, invalid
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of a provider, whichever deployment gets it. path: after the base URL, from its slash on."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    content_type: str
    streams: bool


class Deployment:
    """One deployment. Health and rests are kept by model, so that one broken model does not take the others along."""

    def __init__(
        self, provider: str, api: str, settings: DeploymentSettings, breaker: BreakerOptions
    ) -> None:
        self.provider = provider
        self.name = settings.name
        self.weight = settings.weight
        self.settings = settings
        self._headers = ProviderHeaders(api, settings.key, settings.headers)
        parts = urlsplit(settings.base_url)
        self._path, self._query = parts.path.rstrip("/"), parts.query
        self.upstream = Upstream(
            f"{parts.scheme}://{parts.netloc}",
            UpstreamOptions(
                connect_timeout_ms=settings.connect_timeout_ms,
                read_timeout_ms=settings.read_timeout_ms,
                idle_timeout_ms=settings.idle_timeout_ms,
                keepalive_timeout_ms=settings.keepalive_timeout_ms,
                max_connections=settings.max_connections,
            ),
        )
        self._breaker_options = breaker
        self._healthy = Breaker(breaker)  # never fails: stands for models that have not failed yet
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()
        self._rests: dict[str, float] = {}

    def serves(self, model: str) -> bool:
        """Whether calls for this model may be sent here."""
        return self.settings.models is None or model in self.settings.models

    def name_of(self, model: str) -> str:
        """What the model is called here."""
        return model if self.settings.models is None else self.settings.models[model]

    def in_use(self) -> int:
        """Calls under way."""
        return self.upstream.in_use

    async def attempt(
        self, call: Call, body: bytes | None, on_sent: Callable[[], None] | None = None
    ) -> Attempt:
        """Send a call once and wait for the reply's head. Cancelling closes the connection.

        on_sent: called when it goes out.

        On a connection that the server had closed while it was idle (RFC 9112 section 9.3.1) the provider got nothing:
        the next one is taken at once. Without a connection it got nothing either. Later than that it may be at work,
        and bill: then `Attempt.accepted` is True.
        """
        settings = self.settings
        headers = self._headers.of_call(call.headers, call.content_type)
        timeout_ms = settings.read_timeout_ms if call.streams else settings.reply_timeout_ms
        while True:
            try:
                reply = await self.upstream.request(
                    call.method,
                    self._target(call.path),
                    headers,
                    body,
                    timeout_ms=timeout_ms,
                    on_sent=on_sent,
                )
            except UpstreamError as error:
                if isinstance(error, Lost) and not error.sent:
                    continue  # ends: only connections that were idle are lost so, and this one is gone
                # not the error's own text, which speaks of LibreChat
                status, cause = _status(error), type(error.__cause__ or error).__name__
                log.warning("%s at %s: %s (%s)", self.provider, self.name, status, cause)
                return Attempt(None, status, accepted=error.sent)
            return Attempt(reply, str(reply.status))

    def _target(self, path: str) -> str:
        if not self._query:
            return self._path + path
        return f"{self._path}{path}{'&' if '?' in path else '?'}{self._query}"

    # health

    def admits(self, model: str, now: float) -> bool:
        """Whether the circuit lets a call through."""
        return self._breakers.get(model, self._healthy).admits(now)

    def enter(self, model: str, now: float) -> Pass | None:
        """Leave for a call; None while the circuit is open."""
        return self._breakers.get(model, self._healthy).enter(now)

    def wait_s(self, model: str, now: float) -> float:
        """Seconds until the circuit lets a call through."""
        return self._breakers.get(model, self._healthy).wait_s(now)

    def succeeded(self, model: str, given: Pass, now: float) -> State | None:
        """The call was answered. Returns the state of the circuit; None: it has never been anything but closed."""
        breaker = self._breakers.get(model)
        if breaker is None:
            return None
        breaker.succeeded(given, now)
        return breaker.state

    def failed(self, model: str, given: Pass | None, now: float) -> State:
        """The call failed; given None: after it had been answered. Returns the state of the circuit."""
        breaker = self._breakers.get(model)
        if breaker is None:
            breaker = self._breakers[model] = Breaker(self._breaker_options)
            if len(self._breakers) > MAX_TRACKED:
                self._breakers.popitem(last=False)
        self._breakers.move_to_end(model)
        if given is None:
            breaker.broke_off(now)
        else:
            breaker.failed(given, now)
        return breaker.state

    def left(self, model: str, given: Pass) -> State | None:
        """The call ended without saying anything of the deployment. Returns as `succeeded`."""
        breaker = self._breakers.get(model)
        if breaker is None:
            return None
        breaker.left(given)
        return breaker.state

    # rests: the provider has said that it has no room

    def rest(self, model: str, until: float, now: float) -> None:
        """Send no calls for the model before this time, as the provider asked."""
        self._rests[model] = max(until, self._rests.pop(model, 0.0))
        if len(self._rests) > MAX_TRACKED:
            self._rests = {name: time for name, time in self._rests.items() if time > now}
        while len(self._rests) > MAX_TRACKED:
            del self._rests[next(iter(self._rests))]  # the oldest: a dict keeps the order of insertion

    def rest_s(self, model: str, now: float) -> float:
        """Seconds that are left of the rest; 0: none."""
        return max(0.0, self._rests.get(model, 0.0) - now)


def _status(error: UpstreamError) -> str:
    match error:
        case UpstreamTimeout():
            return "timeout"
        case UpstreamBusy():
            return "busy"
        case UpstreamUnreachable():
            return "lost" if error.sent else "connect"
        case _:
            return "invalid"


def ready(deployments: Iterable[Deployment], model: str, now: float) -> list[Deployment]:
    """Those that may be called now."""
    return [each for each in deployments if each.admits(model, now) and not each.rest_s(model, now)]


def pick(deployments: list[Deployment], random: Callable[[], float]) -> Deployment:
    """One of them by weight. random: as `random.random`."""
    at = random() * sum(each.weight for each in deployments)
    for each in deployments:
        at -= each.weight
        if at < 0:
            return each
    return deployments[-1]
