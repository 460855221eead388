"""Titles of new conversations: the hidden model call, and the cache that GET gen_title waits on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from geko_proxy.demo.librechat.accounts import Account
from geko_proxy.demo.librechat.chat.balance import charge
from geko_proxy.demo.librechat.chat.prompts import title_prompt
from geko_proxy.demo.librechat.chat.provider import ModelCall, ProviderDied, ProviderError
from geko_proxy.demo.librechat.express import Json
from geko_proxy.demo.librechat.settings import Endpoint

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.server import StandIn


class Titles:
    """Finished titles by user and conversation."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], asyncio.Future[str]] = {}

    def put(self, user_id: str, conversation_id: str, title: str) -> None:
        """A title is ready."""
        future = self._future(user_id, conversation_id)
        if not future.done():
            future.set_result(title)

    async def wait(self, user_id: str, conversation_id: str, hold_s: float) -> str | None:
        """The title; None if it has not come after `hold_s` seconds."""
        future = self._future(user_id, conversation_id)
        await asyncio.wait({future}, timeout=hold_s)
        return future.result() if future.done() else None

    def _future(self, user_id: str, conversation_id: str) -> asyncio.Future[str]:
        key = (user_id, conversation_id)
        return self._found.setdefault(key, asyncio.get_running_loop().create_future())


class TitleCall:
    """One title in the making. `tokens` is the call's output count once it has finished."""

    def __init__(self, lc: StandIn, account: Account, endpoint: Endpoint, conversation_id: str) -> None:
        self._lc, self._account, self._endpoint = lc, account, endpoint
        self._conversation_id = conversation_id
        self.text: str | None = None
        self.tokens: int | None = None

    @property
    def event(self) -> Json | None:
        """The stream's `title` event."""
        data = {"conversationId": self._conversation_id, "title": self.text}
        return None if self.text is None else {"event": "title", "data": data}

    async def make(self, question: str, message_id: str, parent_id: str) -> None:
        """Call the model; a failure leaves the conversation without a title."""
        call = ModelCall(
            model=self._endpoint.title_model,
            messages=title_prompt(question),
            purpose="title",
            endpoint=self._endpoint.title_endpoint or self._endpoint.name,
            user_id=self._account.id,
            conversation_id=self._conversation_id,
            message_id=message_id,
            parent_id=parent_id,
        )
        try:
            self.text = await self._lc.provider.complete(call)
        except (ProviderError, ProviderDied, ValueError):
            return
        if call.usage is not None:
            self.tokens = call.usage.completion
            charge(self._account, self._endpoint.title_model, call.usage)
        self._lc.titles.put(self._account.id, self._conversation_id, self.text)
