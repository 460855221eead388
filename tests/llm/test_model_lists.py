"""Lists of models: asked once, checked, kept."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.config.llm_settings import DeploymentSettings, is_model
from geko_proxy.errors import Refused
from geko_proxy.llm.model_lists import MAX_MODELS, read_models
from geko_proxy.llm.pool import ProviderPool
from tests.llm.provider import Time, pool_of, provider_settings, serving

LIST = {"object": "list", "data": [{"id": "a", "object": "model"}, {"id": "meta/b"}]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["data", "id"]), inner),
)


def replies(*values: Any) -> list[Any]:
    return [value if isinstance(value, int) else web.json_response(value) for value in values]


async def test_a_list_is_asked_for_once_a_day_by_however_many() -> None:
    time = Time()
    async with serving(*replies(LIST, {"data": [{"id": "new"}]}, 500, 500, 500)) as provider:
        pool = pool_of(provider_settings("Mock", provider.deployment()), time=time)
        found = await asyncio.gather(*[pool.ask_models("Mock") for _ in range(20)])
        assert set(found) == {("a", "meta/b")}
        assert [each.request.raw_path for each in provider.seen] == ["/v1/models"]
        assert provider.seen[0].request.headers["authorization"] == "Bearer sk-1"
        assert pool.models("Mock") == ()
        time.now += 86_401
        assert await pool.ask_models("Mock") == ("new",)
        time.now += 86_401  # an old list is better than none
        assert await pool.ask_models("Mock") == ("new",)
        assert len(provider.seen) == 5
        await pool.close()


async def test_a_failure_is_kept_for_a_short_time() -> None:
    time = Time()
    async with serving(*replies(404, LIST)) as provider:
        pool = pool_of(provider_settings("Mock", provider.deployment()), time=time)
        for _ in range(2):
            with pytest.raises(Refused) as found:
                await pool.ask_models("Mock")
            assert found.value.status == 502
        assert len(provider.seen) == 1
        time.now += 31
        assert await pool.ask_models("Mock") == ("a", "meta/b")
        await pool.close()


async def test_the_settings_say_which_models_there_are() -> None:
    nobody = DeploymentSettings(base_url="http://127.0.0.1:1/v1", name="nobody")
    mapped = DeploymentSettings(base_url="http://127.0.0.1:1/v1", name="mapped", models={"x": "y"})
    pool = pool_of(
        provider_settings("Listed", nobody, models=("a", "b")),
        provider_settings("Mapped", mapped),
        time=Time(),
    )
    assert await pool.ask_models("Listed") == pool.models("Listed") == ("a", "b")
    assert await pool.ask_models("Mapped") == pool.models("Mapped") == ("x",)
    assert (pool.knows("Listed"), pool.knows("Other"), pool.models("Other")) == (True, False, ())
    with pytest.raises(Refused) as found:
        await pool.ask_models("Other")
    assert found.value.status == 404


async def test_anthropic_is_asked_in_its_own_way() -> None:
    async with serving(
        *replies({"data": [{"type": "model", "id": "claude"}], "has_more": False})
    ) as provider:
        deployment = provider.deployment(
            base_url=f"{provider.url}/v1?beta=1", models=None, headers={"anthropic-beta": "x"}
        )
        pool = pool_of(provider_settings("Claude", deployment, api="anthropic"), time=Time())
        assert await pool.ask_models("Claude") == ("claude",)
        request = provider.seen[0].request
        assert request.raw_path == "/v1/models?limit=1000&beta=1"
        assert (request.headers["x-api-key"], request.headers["anthropic-version"]) == ("sk-1", "2023-06-01")
        assert "authorization" not in request.headers
        assert request.headers["anthropic-beta"] == "x"
        await pool.close()


async def endless(_: object) -> web.StreamResponse:
    return web.Response(body=b" " * (5 * 1024 * 1024), content_type="application/json")


async def test_a_list_that_is_too_large_is_refused() -> None:
    async with serving(endless) as provider:
        pool: ProviderPool = pool_of(provider_settings("Mock", provider.deployment()), time=Time())
        with pytest.raises(Refused):
            await pool.ask_models("Mock")
        await pool.close()


@given(JSON.map(msgspec.json.encode) | st.binary())
def test_whatever_a_provider_says_gives_models_or_a_refusal(body: bytes) -> None:
    with contextlib.suppress(Refused):
        assert all(is_model(name) for name in read_models(body))


def test_what_cannot_be_a_model_is_left_out() -> None:
    entries = [{"id": name} for name in ("a", "a", "b*", "", "x" * 300, "c\r\n", 5, None, "d e")] + ["e"]
    assert read_models(msgspec.json.encode({"data": entries})) == ("a", "d e")
    many = {"data": [{"id": str(number)} for number in range(MAX_MODELS + 5)]}
    assert len(read_models(msgspec.json.encode(many))) == MAX_MODELS
