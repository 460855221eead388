"""A GEKO with an LLM side, the mock provider behind it, and calls as LibreChat makes them. Not a test."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from geko_proxy.sse import SseEvent, SseParser
from tests.e2e.people import Person
from tests.e2e.processes import Running, geko_environment, running

KEY = hashlib.sha256(b"llm").hexdigest()
INNER = re.compile(r"calls its models at (http://\S+)/llm/")
UNFILLED = "{{LIBRECHAT_BODY_CONVERSATIONID}}"

TOML = """
version = 1
[llm]
port = 0
key = "{key}"
{llm}
{providers}
"""

PROVIDER = """
[[llm_providers]]
name = "{name}"
api = "{api}"
models = {models}
[[llm_providers.deployments]]
base_url = "{url}/v1"
key = "{key}"
"""


@dataclass(frozen=True)
class Reply:
    """What a call of a model got."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.raw)

    @property
    def events(self) -> list[SseEvent]:
        """The body's events."""
        return SseParser().feed(self.raw)

    @property
    def chunks(self) -> list[Any]:
        """The JSON of each event but [DONE]."""
        return [event.json for event in self.events if event.data != b"[DONE]"]

    @property
    def text(self) -> str:
        """What the chunks of a chat completion say."""
        parts = [
            choice["delta"].get("content") for chunk in self.chunks for choice in chunk.get("choices", ())
        ]
        return "".join(part or "" for part in parts)


@dataclass(frozen=True)
class LlmSide:
    """A running GEKO. url: of its internal listener."""

    geko: Running
    url: str

    async def call(
        self,
        person: Person | str | None,
        model: str,
        text: str,
        *,
        provider: str = "Mock",
        conversation: str = UNFILLED,
        message: str = "m1",
        kind: str | None = None,
        key: str = KEY,
        path: str = "chat/completions",
        **body: Any,
    ) -> Reply:
        """Call a model as LibreChat does for an account (contract §4.9)."""
        account = await account_of(person) if isinstance(person, Person) else person
        headers = {
            "Authorization": f"Bearer {key}",
            "x-geko-conversation": conversation,
            "x-geko-message": message,
            **({"x-geko-user": account} if account else {}),
            **({"x-geko-kind": kind} if kind else {}),
        }
        asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], **body}
        asked = {name: value for name, value in asked.items() if value is not ...}
        async with (
            aiohttp.ClientSession(self.url) as session,
            session.post(f"/llm/{provider}/v1/{path}", json=asked, headers=headers) as reply,
        ):
            return Reply(reply.status, reply.headers.copy(), await reply.read())

    async def get(self, path: str, account: str | None = None, key: str = KEY) -> Reply:
        """GET from the internal listener."""
        headers = {"Authorization": f"Bearer {key}", **({"x-geko-user": account} if account else {})}
        async with aiohttp.ClientSession(self.url) as session, session.get(path, headers=headers) as reply:
            return Reply(reply.status, reply.headers.copy(), await reply.read())


async def account_of(person: Person) -> str:
    """The id of the account that stands for somebody in LibreChat."""
    answer = await person.call("GET", "/api/user")
    assert answer.status == 200, answer
    return str(answer.json["id"])


def toml(
    providers: Mapping[str, str], models: Mapping[str, tuple[str, ...]] | None = None, llm: str = ""
) -> str:
    """The settings of an LLM side. providers: address by name; models: the lists of those that have one.

    A provider whose name begins with "Claude" speaks Anthropic's API.
    """
    entries = [
        PROVIDER.format(
            name=name,
            api="anthropic" if name.startswith("Claude") else "openai",
            url=url,
            key="provider-key",
            models=json.dumps((models or {}).get(name, ())),
        )
        for name, url in providers.items()
    ]
    return TOML.format(key=KEY, llm=llm, providers="\n".join(entries))


@contextmanager
def llm_side(dsn: str, librechat: str, settings: str, folder: Path, **environment: str) -> Iterator[LlmSide]:
    """Run a GEKO with these settings."""
    config = folder / "geko.toml"
    config.write_text(settings)
    command = ["geko_proxy", "--config", str(config), "serve"]
    with running(command, geko_environment(dsn, librechat, **environment), folder / "log") as geko:
        found = INNER.search(geko.log_text())
        assert found is not None, geko.log_text()
        yield LlmSide(geko, found[1])
