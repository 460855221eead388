"""Metrics: what they count, and that callers can't make them grow."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from geko_proxy.errors import Refused
from geko_proxy.llm.metrics import MAX_MODELS, LlmMetrics
from tests.llm.provider import Time, ask, pool_of, provider_settings, serving


def samples(metrics: LlmMetrics) -> dict[tuple[str, frozenset[str]], float]:
    """Values by the metric's name and the values of its labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (each.name, frozenset(each.labels.values())): each.value
        for family in families
        for each in family.samples
    }


def value(metrics: LlmMetrics, name: str, *labels: str) -> float:
    return samples(metrics)[name, frozenset(labels)]


async def test_what_a_scrape_shows() -> None:
    time = Time()
    async with serving(500, 429, 404) as provider:
        deployment = provider.deployment(name="eu")
        pool = pool_of(provider_settings("Mock", deployment, models=("a",)), time=time, breaker_failures=1)
        with pytest.raises(Refused):
            await ask(pool, "Mock/a")
        assert value(pool.metrics, "geko_llm_breaker_state", "Mock", "a", "eu") == 2
        time.now += 6
        answer = await ask(pool, "Mock/a")
        for status in ("500", "429", "404"):
            assert value(pool.metrics, "geko_llm_requests_total", "Mock", "a", "eu", status) == 1
        assert value(pool.metrics, "geko_llm_retries_total", "Mock") == 1
        assert value(pool.metrics, "geko_llm_breaker_state", "Mock", "a", "eu") == 0
        assert value(pool.metrics, "geko_llm_in_flight", "Mock", "eu") == (not answer.reply.complete)
        assert value(pool.metrics, "geko_llm_first_byte_seconds_count", "Mock", "a") == 1
        await answer.reply.read(1000)
        assert value(pool.metrics, "geko_llm_in_flight", "Mock", "eu") == 0
        await pool.close()


async def test_models_that_callers_make_up_are_other() -> None:
    async with serving(*[404] * 300) as provider:
        pool = pool_of(provider_settings("Mock", provider.deployment(name="eu")), time=Time())
        for number in range(300):
            (await ask(pool, f"Mock/made-up-{number}")).reply.close()
        assert value(pool.metrics, "geko_llm_requests_total", "Mock", "other", "eu", "404") == 300
        assert not [key for key in samples(pool.metrics) if "made-up" in str(key)]
        await pool.close()


def test_a_provider_with_very_many_models_gets_so_many_labels() -> None:
    metrics = LlmMetrics()
    metrics.add_models("Mock", [str(number) for number in range(MAX_MODELS + 50)])
    for number in range(MAX_MODELS + 50):
        metrics.attempt("Mock", str(number), "eu", "200")
    counted = [key for key in samples(metrics) if key[0] == "geko_llm_requests_total"]
    assert len(counted) == MAX_MODELS + 1
