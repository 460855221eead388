"""What is measured of model calls: the provider's stand-in alone, a naive proxy, GEKO's LLM side, and LiteLLM."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg

from bench.litellm import ENVIRONMENT, installed
from bench.processes import ROOT, BenchError, free_port, python, running
from bench.subjects import Stage, Subject, database, log_in, naive, register, settings

PATH = "/v1/chat/completions"
PROVIDER = """
[[llm_providers]]
name = "Mock"
models = ["gpt-4o"]
[[llm_providers.deployments]]
base_url = "http://127.0.0.1:{upstream}/v1"
key = "provider-key"
max_connections = 2048
"""
LITELLM_STARTS_WITHIN_S = 120.0


@asynccontextmanager
async def direct(stage: Stage) -> AsyncIterator[Subject]:
    """The provider's stand-in without a proxy."""
    yield Subject("llm-direct", stage.upstream, 0, target=PATH)


@asynccontextmanager
async def plain(stage: Stage) -> AsyncIterator[Subject]:
    """An aiohttp pass-through without filters, which asks for no key."""
    async with naive(stage) as subject:
        yield Subject("llm-naive", subject.port, subject.pid, target=PATH)


@asynccontextmanager
async def passing(stage: Stage) -> AsyncIterator[Subject]:
    """GEKO without the quota: the key, the workspace that pays for calls without an account, its models."""
    async with database(stage.folder / "geko-passing") as dsn:
        workspace = await register(dsn, secrets.token_hex(16))
        more = {"GEKO_LLM_UNKNOWN_ACCOUNTS": str(workspace)}
        async with _geko(stage, "llm-passing", dsn, more, has_quota=False) as (subject, _):
            await check(subject)
            yield subject


@asynccontextmanager
async def metered(stage: Stage) -> AsyncIterator[Subject]:
    """GEKO as it is shipped: calls of an account, leased, metered and charged in PostgreSQL."""
    password = secrets.token_hex(16)
    async with database(stage.folder / "geko-metered") as dsn:
        await register(dsn, password)
        async with _geko(stage, "llm-metered", dsn, {}, has_quota=True) as (subject, port):
            account = await _account(dsn, port, password)
            subject.headers["x-geko-user"] = account
            await check(subject)
            yield subject


@asynccontextmanager
async def litellm(stage: Stage) -> AsyncIterator[Subject]:
    """LiteLLM's proxy with one worker, a master key, one model, and neither database nor logging (docs/llm-speed.md).

    Raises BenchError when it can't be installed or does not start.
    """
    program = await installed()
    port, key, config = free_port(), f"sk-{secrets.token_hex(16)}", stage.folder / "litellm.yaml"
    model = {
        "model": "openai/gpt-4o",
        "api_base": f"http://127.0.0.1:{stage.upstream}/v1",
        "api_key": "provider-key",
    }
    options = {
        "model_list": [{"model_name": "gpt-4o", "litellm_params": model}],
        "general_settings": {"master_key": key, "disable_spend_logs": True, "disable_error_logs": True},
        "litellm_settings": {
            "num_retries": 0,
            "set_verbose": False,
            "telemetry": False,
            "disable_end_user_cost_tracking": True,
        },
    }
    config.write_text(json.dumps(options))  # JSON is YAML
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False"]
    async with running(
        "LiteLLM",
        command,
        core=stage.cores.measured,
        port=port,
        folder=stage.folder,
        env=ENVIRONMENT,
        within_s=LITELLM_STARTS_WITHIN_S,
    ) as pid:
        subject = Subject("llm-litellm", port, pid, {"Authorization": f"Bearer {key}"}, target=PATH)
        await check(subject)
        yield subject


LLM_SUBJECTS: dict[str, Callable[[Stage], AbstractAsyncContextManager[Subject | None]]] = {
    "llm-direct": direct,
    "llm-naive": plain,
    "llm-passing": passing,
    "llm-metered": metered,
    "llm-litellm": litellm,
}


@asynccontextmanager
async def _geko(
    stage: Stage, name: str, dsn: str, more: Mapping[str, str], *, has_quota: bool
) -> AsyncIterator[tuple[Subject, int]]:
    """A running GEKO: its LLM side, and the port for people. The shipped settings but for what `settings` says."""
    port, inner, key = free_port(), free_port(), secrets.token_hex(32)
    env = {
        **settings(stage.upstream, port, dsn),
        "GEKO_LLM_PORT": str(inner),
        "GEKO_LLM_KEY": key,
        **more,
    }
    config = _config(stage, name, has_quota)
    command = python("geko_proxy", "--config", str(config), "serve")
    async with running(
        name, command, core=stage.cores.measured, port=inner, folder=stage.folder, env=env
    ) as pid:
        headers = {"Authorization": f"Bearer {key}"}
        yield Subject(name, inner, pid, headers, target=f"/llm/Mock{PATH}"), port


def _config(stage: Stage, name: str, has_quota: bool) -> Path:
    text = (ROOT / "config" / "geko.toml").read_text()
    if not has_quota:
        text = text.replace('\nname = "quota"\n', '\nname = "quota"\nenabled = false\n')
    config = stage.folder / f"{name}.toml"
    config.write_text(text + PROVIDER.format(upstream=stage.upstream))
    return config


async def _account(dsn: str, port: int, password: str) -> str:
    """The id of the account that stands for the bench's user in LibreChat, made by its first request."""
    token = await log_in(port, password)
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"http://127.0.0.1:{port}/api/convos", headers={"Authorization": f"Bearer {token}"}
        ) as reply,
    ):
        if reply.status != 200:
            raise BenchError(f"GEKO did not serve the bench's user: {reply.status}")
    connection = await asyncpg.connect(dsn)
    try:
        return str(await connection.fetchval("select librechat_user_id from shadow_accounts"))
    finally:
        await connection.close()


async def check(subject: Subject) -> None:
    """That it answers a call, whole and as a stream, and not with another key; warms it up. Raises BenchError."""
    for stream in (False, True) * 10:
        status, said = await _call(subject, subject.headers, stream)
        marker = b"data: [DONE]" if stream else b"the quick brown"
        if status != 200 or marker not in said:
            raise BenchError(f"{subject.name} does not answer: {status} {said[:500]!r}")
    status, _ = await _call(subject, {**subject.headers, "Authorization": "Bearer sk-wrong"}, False)
    if not 400 <= status < 500:
        raise BenchError(f"{subject.name} lets wrong keys in: {status}")


async def _call(subject: Subject, headers: Mapping[str, str], stream: bool) -> tuple[int, bytes]:
    messages = [{"role": "user", "content": "Tell me about foxes n=3 ms=0"}]
    body = {"model": "gpt-4o", "messages": messages, "stream": stream}
    url = f"http://127.0.0.1:{subject.port}{subject.target}"
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as reply:
        return reply.status, await reply.read()
