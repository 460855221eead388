"""The Agents API beyond the recordings: leaving aborts, the gzip trap, stored responses, used-up keys."""

from __future__ import annotations

import asyncio
import gzip

import aiohttp

from geko_proxy.demo.librechat import StandIn
from tests.demo.people import Person, sign_up
from tests.demo.test_library import new_agent


async def key_of(person: Person) -> str:
    """A new API key."""
    return str((await person.call("POST", "/api/api-keys", {"name": "k"})).json["key"])


async def test_leaving_aborts_the_run(alice: Person, lc: StandIn) -> None:
    agent, key = await new_agent(alice), await key_of(alice)
    messages = [{"role": "user", "content": "[[tokens=100 delay_ms=20]]"}]
    body = {"model": agent["id"], "stream": True, "messages": messages}
    url, headers = f"{lc.url}/api/agents/v1/chat/completions", {"Authorization": f"Bearer {key}"}
    async with alice.client.post(url, json=body, headers=headers) as reply:
        await reply.content.readuntil(b"brown")
        reply.close()
    await asyncio.sleep(0.1)
    assert lc.provider.log[-1]["outcome"] == "client went away"
    assert lc.provider.log[-1]["sent"] < 20


async def test_compressed_streams_arrive_in_one_lump(http: aiohttp.ClientSession) -> None:
    async with StandIn(compression=True) as lc:
        alice = await sign_up(lc, http, "alice")
        agent, key = await new_agent(alice), await key_of(alice)
        body = {"model": agent["id"], "stream": True, "input": "[[tokens=5]]"}
        path = "/api/agents/v1/responses"
        lump = await alice.call("POST", path, body, Authorization=f"Bearer {key}", Accept_Encoding="gzip")
        assert gzip.decompress(lump.raw).endswith(b"data: [DONE]\n\n")


async def test_only_stored_responses_can_be_read_again(alice: Person) -> None:
    agent, key = await new_agent(alice), await key_of(alice)
    found = {}
    for store in (True, False):
        body = {"model": agent["id"], "input": "[[tokens=2]]", "store": store}
        made = await alice.call("POST", "/api/agents/v1/responses", body, Authorization=f"Bearer {key}")
        path = f"/api/agents/v1/responses/{made.json['id']}"
        found[store] = (await alice.call("GET", path, Authorization=f"Bearer {key}")).status
    assert found == {True: 200, False: 404}


async def test_a_deleted_key_is_refused(alice: Person) -> None:
    key = await key_of(alice)
    [listed] = (await alice.call("GET", "/api/api-keys")).json["keys"]
    assert key.startswith(listed["keyPrefix"])
    assert (await alice.call("DELETE", f"/api/api-keys/{listed['id']}")).status == 204
    assert (await alice.call("GET", "/api/agents/v1/models", Authorization=f"Bearer {key}")).status == 401
