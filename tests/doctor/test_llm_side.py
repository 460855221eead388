"""The doctor and GEKO's internal listener: lists of models, and one chat whose calls are looked for."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from geko_proxy.config import Settings
from geko_proxy.config.llm_settings import DeploymentSettings, LlmProviderSettings, LlmSettings
from geko_proxy.demo.librechat.server import StandIn
from geko_proxy.demo.librechat.settings import Endpoint
from geko_proxy.demo.provider.server import MockProvider
from geko_proxy.doctor.chat_check import Answer, SeenCall, judged
from geko_proxy.doctor.examination import ChatOrder, examine
from geko_proxy.librechat_setup.yaml_file import NO_MODEL
from geko_proxy.server import serving
from tests.conftest import Account
from tests.doctor.conftest import SECRETS, librechat, settings_for

TITLE = Endpoint("Mock title", (NO_MODEL,), provider="Mock", kind="title")
MOCK = Endpoint("Mock", (NO_MODEL,), title_endpoint="Mock title", fetches=True)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Both:
    """A GEKO that serves with an LLM side, and the LibreChat that it was given."""

    settings: Settings
    librechat: StandIn
    address: str


def llm_settings(settings: Settings, port: int, provider: str) -> Settings:
    deployment = DeploymentSettings(name="mock", base_url=f"{provider}/v1")
    mock = LlmProviderSettings(name="Mock", models=("gpt-4o", "gpt-4o-mini"), deployments=(deployment,))
    return replace(settings, llm=LlmSettings(port=port, key=SECRETS["llm"]), llm_providers=(mock,))


@pytest.fixture
async def both(request: pytest.FixtureRequest, dsn: str, tmp_path: Path) -> AsyncIterator[Both]:
    fault: dict[str, Any] = getattr(request, "param", {})
    port = free_port()
    given = {"endpoints": (MOCK, TITLE), "llm_url": f"http://127.0.0.1:{port}/llm", "llm_key": SECRETS["llm"]}
    async with MockProvider() as provider, librechat(**(given | fault)) as lc:
        settings = llm_settings(settings_for(lc.url, dsn), port, provider.url)
        server = replace(settings.server, host="127.0.0.1", port=0, home=tmp_path, peer_url="none")
        settings = replace(settings, server=server)
        async with serving(settings) as address:
            yield Both(settings, lc, address)


async def test_finds_nothing_and_sees_its_chat(both: Both, account: Account) -> None:
    report = await examine(both.settings, ChatOrder(account.workspace_id))
    assert report.findings == []
    assert "examination.chat" in report.checked
    accounts = list(both.librechat.accounts._by_id)
    assert len(accounts) == 3, "GEKO's own, the doctor's, and the owner's"
    assert not any(both.librechat.conversations.of(each) for each in accounts), "it cleans up"


@pytest.mark.parametrize(
    ("both", "code"),
    [
        ({"endpoints": (MOCK, TITLE, Endpoint("Other"))}, "foreign_endpoint"),
        ({"endpoints": (replace(MOCK, title_endpoint=""),)}, "title_endpoint_missing"),
        ({"endpoints": (TITLE,)}, "endpoint_missing"),
    ],
    indirect=["both"],
)
async def test_finds_what_librechat_lacks(both: Both, code: str) -> None:
    found = [finding.code for finding in (await examine(both.settings)).findings]
    assert found == [code]


@pytest.mark.parametrize(
    "both", [{"llm_url": "", "endpoints": (replace(MOCK, models=("a", "b")), TITLE)}], indirect=True
)
async def test_finds_calls_that_go_around_geko(both: Both, account: Account) -> None:
    chat = ChatOrder(account.workspace_id, "Mock/a")
    found = [finding.code for finding in (await examine(both.settings, chat)).findings]
    assert found == ["models", "chat_not_seen"]


async def test_finds_that_geko_does_not_run_or_has_another_key(both: Both) -> None:
    away = replace(both.settings, llm=replace(both.settings.llm, port=free_port()))
    assert [finding.code for finding in (await examine(away)).findings] == ["listener"]
    other = replace(both.settings, llm=replace(both.settings.llm, key=SECRETS["seal"][::-1]))
    assert [finding.code for finding in (await examine(other)).findings] == ["llm_key"]


async def test_a_workspace_that_is_not_there(both: Both) -> None:
    found = [finding.code for finding in (await examine(both.settings, ChatOrder(uuid4()))).findings]
    assert found == ["chat_workspace"]


PERSON = (UUID(int=1), UUID(int=2), UUID(int=3))
SEEN = SeenCall("chat", UUID(int=2), UUID(int=3), "m")
HIDDEN = replace(SEEN, kind="title")


@pytest.mark.parametrize(
    ("answer", "seen", "codes"),
    [
        (Answer("c", "m", ""), [SEEN, HIDDEN], []),
        (Answer("c", "m", "broken"), [], ["chat_failed"]),
        (Answer("c", "m", ""), [], ["chat_not_seen"]),
        (Answer("c", "m", ""), [replace(SEEN, user_id=UUID(int=4))], ["chat_user"]),
        (Answer("c", "m", ""), [SEEN, replace(HIDDEN, workspace_id=UUID(int=4))], ["chat_user"]),
        (Answer("c", "m", ""), [replace(SEEN, message_id=None)], ["chat_message"]),
        (Answer("c", "m", ""), [SEEN, SEEN], ["chat_kind"]),
    ],
)
def test_what_was_seen_is_judged(answer: Answer, seen: list[SeenCall], codes: list[str]) -> None:
    assert [finding.code for finding in judged(answer, seen, PERSON)] == codes


async def test_people_see_no_endpoint_for_hidden_work_and_can_not_chat_with_it(both: Both) -> None:
    async with aiohttp.ClientSession(both.address) as client:
        form = {"email": "a@example.org", "password": "river-owl-4711", "name": "A", "tenantName": "T"}
        async with client.post("/v1/auth/register", json=form) as reply:
            bearer = {"Authorization": f"Bearer {(await reply.json())['accessToken']}"}
        async with client.get("/api/endpoints", headers=bearer) as reply:
            assert set(await reply.json(content_type=None)) == {"agents", "Mock"}
        message = {"message": "hello", "model": "Mock title/gpt-4o", "stream": False}
        async with client.post("/v1/chat/send", json=message, headers=bearer) as reply:
            assert reply.status == 403, await reply.text()
        message["model"] = "Mock/gpt-4o"
        async with client.post("/v1/chat/send", json=message, headers=bearer) as reply:
            assert reply.status == 200, await reply.text()
