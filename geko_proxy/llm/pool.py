"""Sends model calls to providers: weighted deployments, retries, the queue at 429, circuit breakers, fallbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import random
from time import monotonic
from typing import Final, NamedTuple

from geko_proxy.config.llm_settings import LlmProviderSettings, LlmSettings
from geko_proxy.errors import Refused
from geko_proxy.llm.breaker import Pass
from geko_proxy.llm.deployments import Call, Deployment, pick, ready
from geko_proxy.llm.metrics import LlmMetrics
from geko_proxy.llm.model_lists import ModelLists
from geko_proxy.llm.providers import build_providers
from geko_proxy.llm.tries import Exhausted, Run, Tries
from geko_proxy.llm.verdicts import Judged, Verdict, failure, judge, left_alone, no_room, not_served
from geko_proxy.upstream_connection import UpstreamReply

Headers = Sequence[tuple[bytes, bytes]]
Target = tuple[str, str]

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 8.0
LEAST_REST_S: Final = 0.1
MOST_JITTER_S: Final = 1.0
MOST_LIMITS: Final = 20  # 429s of one target in one call


class Answer(NamedTuple):
    """A reply whose head has come; its body is still to be read, or closed. model: GEKO's name of what answers."""

    reply: UpstreamReply
    provider: str
    model: str
    deployment: str
    attempts: int


def nothing() -> None:
    """The default of `on_left`."""


class ProviderPool:
    """All providers of the settings.

    clock, sleep, chance: replaced in tests; steady seconds, asyncio.sleep, random.random.
    """

    def __init__(
        self,
        settings: LlmSettings,
        providers: Sequence[LlmProviderSettings],
        metrics: LlmMetrics | None = None,
        *,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random,
    ) -> None:
        self.metrics = metrics or LlmMetrics()
        self._settings = settings
        self._clock, self._sleep, self._chance = clock, sleep, chance
        self._providers = build_providers(settings, providers)
        self._lists = ModelLists(self._ask, clock)
        for provider in self._providers.values():
            self.metrics.add_models(provider.name, provider.configured_models())
            self.metrics.queue(provider.name, 0)
            for deployment in provider.deployments:
                self.metrics.in_flight(provider.name, deployment.name, deployment.in_use)

    async def close(self) -> None:
        """Close all connections at once."""
        for provider in self._providers.values():
            for deployment in provider.deployments:
                await deployment.upstream.close()

    def knows(self, provider: str) -> bool:
        """Whether there is a provider of this name."""
        return provider in self._providers

    def models(self, provider: str) -> tuple[str, ...]:
        """The models that the settings name for a provider; empty when it must be asked."""
        known = self._providers.get(provider)
        return () if known is None else known.configured_models()

    async def ask_models(self, provider: str) -> tuple[str, ...]:
        """The models of a provider: as the settings say, else as it says itself, kept for a day.

        Raises Refused 404 for an unknown provider, 502 to 504 when it can't be asked.
        """
        known = self._providers.get(provider)
        if known is None:
            raise Refused(404, "provider_not_found", "There is no such provider.")
        configured = known.configured_models()
        if not known.must_be_asked():
            return configured
        asked = await self._lists.get(provider)
        self.metrics.add_models(provider, asked)
        return tuple(dict.fromkeys((*configured, *asked)))

    async def _ask(self, provider: str) -> UpstreamReply:
        path = "/models?limit=1000" if self._providers[provider].api == "anthropic" else "/models"
        answer = await self.send(
            [(provider, "")], path, lambda _: b"", (), content_type="", streams=True, method="GET"
        )
        return answer.reply

    def serves(self, provider: str, model: str) -> bool:
        """Whether calls for a model have a deployment to go to."""
        found = self._providers.get(provider)
        return found is not None and bool(found.serving(model))

    async def send(
        self,
        targets: Sequence[Target],
        path: str,
        body_for: Callable[[str], bytes],
        headers: Headers,
        *,
        content_type: str,
        streams: bool,
        method: str = "POST",
        on_left: Callable[[], None] = nothing,
    ) -> Answer:
        """Send a call to the first target (provider, model) that answers it; return when the reply's head is there.

        path: what follows the base URL, such as "/chat/completions". body_for: makes the body for the provider's
        name of the model. headers: the caller's as received, of which an allow-list goes on. streams: the reply's
        head comes before it is generated.

        Sent again, or to another target, is only what the provider certainly did not begin: no connection, one that
        turns out to have been closed while idle, or an error status (408, 429, 5xx; 401 to 403 elsewhere only). A
        connection that is lost later, or a head that does not come in time, ends the call: the provider may bill
        it, and a repetition twice. Other statuses, such as 400, are answers.

        Cancelling closes the provider's connection; on_left is called when it had the call, and may bill it.
        Raises Refused: 404, 429 and 503 with retry_after_s, 502, 504.
        """
        started = self._clock()
        call = Call(method, path, tuple(headers), content_type, streams)
        run = Run(call, body_for, started + self._settings.retry_timeout_ms / 1000, on_left)
        first: Refused | None = None
        for provider, model in dict.fromkeys(targets):
            try:
                answer = await self._ask_target(provider, model, run)
            except Exhausted as error:
                first = error.refused if error.final else first or error.refused
                if error.final or self._clock() > run.last_start:
                    break
                continue
            self._note(answer, targets[0], self._clock() - started)
            return answer
        raise first or Refused(404, "provider_not_found", "There is no such provider.")

    def broke_off(self, answer: Answer) -> None:
        """Say that a reply broke off or fell silent after its head (UpstreamError while its body was read).

        Its head was counted as a success: a deployment all of whose replies break off fails half of the time, which
        opens its circuit.
        """
        for deployment in self._providers[answer.provider].deployments:
            if deployment.name == answer.deployment:
                state = deployment.failed(answer.model, None, self._clock())
                self.metrics.attempt(answer.provider, answer.model, answer.deployment, "broke_off")
                self.metrics.breaker(answer.provider, answer.model, answer.deployment, state)

    def _note(self, answer: Answer, asked: Target, seconds: float) -> None:
        self.metrics.first_byte(answer.provider, answer.model, seconds)
        if (answer.provider, answer.model) != asked:
            name = asked[0] if self.knows(asked[0]) else "other"
            self.metrics.fallback(name, answer.provider)

    async def _ask_target(self, name: str, model: str, run: Run) -> Answer:
        provider = self._providers.get(name)
        if provider is None:
            raise Exhausted(Refused(404, "provider_not_found", "There is no such provider."))
        serving = provider.serving(model)
        if not serving:
            raise Exhausted(not_served(model))
        patience_s = self._settings.queue_timeout_ms / 1000
        tries = Tries(provider, model, serving, patience_s, min(self._clock() + patience_s, run.last_start))
        while True:
            deployment = await self._choose(tries, run)
            answer = await self._attempt(deployment, tries, run)
            if answer is not None:
                return answer

    async def _choose(self, tries: Tries, run: Run) -> Deployment:
        """The deployment for the next attempt, after whatever must be waited for. Raises Exhausted."""
        while True:
            now = self._clock()
            self._check_budget(tries, run, now)
            fresh = [each for each in tries.serving if each not in tries.failed]
            if usable := ready(fresh, tries.model, now):
                return pick(usable, self._chance)
            if tries.failed and (usable := ready(tries.failed, tries.model, now)):
                await self._pause(tries, run, now)
                tries.failed.clear()  # all have been tried: another round
                continue
            await self._queue(tries, now)

    def _check_budget(self, tries: Tries, run: Run, now: float) -> None:
        if tries.refused is not None and (
            not tries.serving or tries.failures > tries.provider.retries or now > run.last_start
        ):
            raise Exhausted(tries.refused)

    async def _pause(self, tries: Tries, run: Run, now: float) -> None:
        """Exponential back-off with full jitter, or as long as the provider asks if that is longer."""
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (tries.failures - 1))
        pause = max(self._chance() * longest, tries.wait_s)
        too_long = tries.wait_s > tries.patience_s or now + pause > run.last_start
        if tries.refused is not None and too_long:
            raise Exhausted(tries.refused)
        await self._sleep(pause)

    async def _queue(self, tries: Tries, now: float) -> None:
        """Wait until a deployment that had no room may have some."""
        provider, model = tries.provider, tries.model
        rests = [each.rest_s(model, now) for each in tries.serving if each.admits(model, now)]
        if not rests:
            waits = [each.wait_s(model, now) for each in tries.serving]
            raise Exhausted(tries.refused or left_alone(min(waits)))
        rest = min(rests)
        if now + rest > tries.queue_until or provider.waiting >= self._settings.max_queue:
            raise Exhausted(no_room(rest))
        jitter = self._chance() * min(rest, MOST_JITTER_S)  # not all that wait at the same moment
        provider.waiting += 1
        self.metrics.queue(provider.name, provider.waiting)
        try:
            await self._sleep(min(rest + jitter, tries.queue_until - now))
        finally:
            provider.waiting -= 1
            self.metrics.queue(provider.name, provider.waiting)

    async def _attempt(self, deployment: Deployment, tries: Tries, run: Run) -> Answer | None:
        model, provider = tries.model, tries.provider
        body = run.body(deployment.name_of(model))
        given = deployment.enter(model, self._clock())
        if given is None:
            return None
        run.attempts += 1
        if tries.refused is not None or tries.limits:
            self.metrics.retry(provider.name)
        try:
            attempt = await deployment.attempt(run.call, body, run.note_sent)
            judged = await judge(attempt)
        except BaseException:
            deployment.left(model, given)
            if run.is_out:
                run.on_left()
            raise
        run.is_out = False
        self.metrics.attempt(provider.name, model, deployment.name, attempt.status)
        now = self._clock()
        self._note_health(deployment, model, given, judged, now)
        if judged.verdict is Verdict.ANSWER and attempt.reply is not None:
            return Answer(attempt.reply, provider.name, model, deployment.name, run.attempts)
        self._take_down(deployment, tries, judged, attempt.status, now)
        return None

    def _note_health(
        self, deployment: Deployment, model: str, given: Pass, judged: Judged, now: float
    ) -> None:
        if judged.verdict is Verdict.ANSWER:
            state = deployment.succeeded(model, given, now)
        elif judged.blames:
            state = deployment.failed(model, given, now)
        else:
            state = deployment.left(model, given)
        if state is not None:
            self.metrics.breaker(deployment.provider, model, deployment.name, state)

    def _take_down(
        self, deployment: Deployment, tries: Tries, judged: Judged, status: str, now: float
    ) -> None:
        """Note a failed attempt. Raises Exhausted when no other may follow."""
        if judged.verdict is Verdict.LIMITED:
            pause = max(LEAST_REST_S, self._chance() * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**tries.limits))
            tries.limits += 1
            deployment.rest(tries.model, now + max(pause, judged.wait_s or 0.0), now)
            if tries.limits >= MOST_LIMITS:
                raise Exhausted(no_room(judged.wait_s or pause))
            return
        tries.refused = failure(status, judged.verdict, judged.wait_s)
        if judged.verdict is Verdict.LOST:
            raise Exhausted(tries.refused, final=True)
        if judged.verdict is Verdict.UNUSABLE:
            tries.serving = [each for each in tries.serving if each is not deployment]
        else:
            tries.failures += 1
            tries.failed.append(deployment)
            tries.wait_s = judged.wait_s or 0.0
