"""The HTTP client of the stand-in's model calls: streams, whole replies, model lists, LangChain's retries."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import msgspec

from geko_proxy.demo.librechat.chat.provider import Delta, ModelCall, ProviderDied, ProviderError
from geko_proxy.demo.librechat.express import Json
from geko_proxy.demo.librechat.llm.chunks import pieces_of, take_whole
from geko_proxy.demo.librechat.llm.requests import address, call_body, call_headers, list_headers
from geko_proxy.demo.librechat.settings import Endpoint, Settings
from geko_proxy.sse import SseParser

# @langchain/core utils/async_caller: never tried again
FINAL_STATUS: Final = frozenset((400, 401, 402, 403, 404, 405, 406, 407, 409))
_CALL_TIMEOUT_S: Final = 600.0  # the OpenAI SDK's own


class LlmClient:
    """Calls the models of all endpoints. `log` has an entry for each of the last calls, tries counted in one.

    `base_url` is Settings.llm_url; it may be set anew, since a gateway is often started after its LibreChat.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.base_url = settings.llm_url
        self._endpoints = {endpoint.name: endpoint for endpoint in settings.endpoints}
        self._session: aiohttp.ClientSession | None = None
        self.log: deque[Json] = deque(maxlen=5000)

    async def open(self) -> None:
        """Make the session; it decompresses nothing and keeps no cookies."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_CALL_TIMEOUT_S)
        self._session = aiohttp.ClientSession(
            timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=0)
        )

    async def close(self) -> None:
        """Cut what still runs."""
        if self._session is not None:
            await self._session.close()

    async def stream(self, call: ModelCall) -> AsyncIterator[Delta]:
        """Yield the answer as it comes. Raises ProviderError, ProviderDied; leaving closes the connection."""
        async with self._answer(call, stream=True) as (reply, entry):
            parser = SseParser()
            try:
                async for data in reply.content.iter_any():
                    for event in parser.feed(data):
                        for piece in self._read(event.data, call):
                            entry["pieces"] += 1
                            yield piece
            except (aiohttp.ClientError, TimeoutError):
                entry["outcome"] = "died"
                raise ProviderDied("terminated") from None

    def _read(self, data: bytes, call: ModelCall) -> list[Delta]:
        if data.strip() in (b"", b"[DONE]"):
            return []
        try:
            chunk = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProviderDied(str(error)) from None
        if isinstance(chunk, dict) and chunk.get("error"):
            failed = chunk["error"]
            said = failed.get("message") if isinstance(failed, dict) else None
            raise ProviderDied(str(said or msgspec.json.encode(failed).decode()))
        return list(pieces_of(chunk, call)) if isinstance(chunk, dict) else []

    async def complete(self, call: ModelCall) -> str:
        """Answer in one piece. Raises like `stream`."""
        async with self._answer(call, stream=False) as (reply, entry):
            try:
                body = msgspec.json.decode(await reply.read())
            except (aiohttp.ClientError, TimeoutError):
                entry["outcome"] = "died"
                raise ProviderDied("terminated") from None
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ProviderDied(str(error)) from None
            return take_whole(body, call) if isinstance(body, dict) else ""

    async def models(self, endpoint: Endpoint, user_id: str) -> tuple[str, ...]:
        """GET …/models; the endpoint's own list when that fails (contract §4.2)."""
        url = address(self.base_url, endpoint, "models")
        headers = list_headers(user_id, endpoint, self._settings.llm_key)
        timeout = aiohttp.ClientTimeout(total=self._settings.model_list_s)
        try:
            async with self._http.get(url, headers=headers, timeout=timeout) as reply:
                reply.raise_for_status()
                listed = msgspec.json.decode(await reply.read())
                return tuple(str(each["id"]) for each in listed["data"]) or endpoint.models
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            return endpoint.models

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the stand-in is not started")
        return self._session

    @asynccontextmanager
    async def _answer(
        self, call: ModelCall, *, stream: bool
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, Json]]:
        entry = self._entry(call, stream=stream)
        try:
            reply = await self._send(call, entry, stream=stream)
            try:
                yield reply, entry
            finally:
                whole = reply.content.at_eof()
                reply.release() if whole else reply.close()
            entry["outcome"] = "done"
        except (asyncio.CancelledError, GeneratorExit):
            entry["outcome"] = "left"
            raise
        except ProviderError as failed:
            entry["outcome"] = f"status {failed.status}"
            raise
        finally:
            entry["ended_at"] = time.time()

    async def _send(self, call: ModelCall, entry: Json, *, stream: bool) -> aiohttp.ClientResponse:
        """The reply to the call, tried again as LangChain does: the pause doubles."""
        retries = 0 if call.purpose == "memory" else self._settings.provider_retries
        while True:
            entry["tries"] += 1
            reply = failed = None
            try:
                reply = await self._post(call, stream=stream)
            except (aiohttp.ClientError, TimeoutError):
                failed = ProviderDied("Connection error.")
            if reply is not None and reply.status < 400:
                return reply
            problem = failed if reply is None else await _problem(reply)
            if entry["tries"] > retries or not _is_tried_again(problem):
                raise problem or ProviderDied("Connection error.")
            await asyncio.sleep(self._settings.provider_retry_s * 2 ** (entry["tries"] - 1))

    async def _post(self, call: ModelCall, *, stream: bool) -> aiohttp.ClientResponse:
        endpoint = self._endpoints[call.endpoint]
        return await self._http.post(
            address(self.base_url, endpoint, "chat/completions"),
            json=call_body(call, stream=stream),
            headers=call_headers(call, endpoint, self._settings.llm_key),
        )

    def _entry(self, call: ModelCall, *, stream: bool) -> Json:
        entry: Json = {
            "at": time.time(),
            "ended_at": None,
            "purpose": call.purpose,
            "endpoint": call.endpoint,
            "model": call.model,
            "user": call.user_id,
            "conversation": call.conversation_id,
            "message": call.message_id,
            "stream": stream,
            "tries": 0,
            "pieces": 0,
            "outcome": "started",
        }
        self.log.append(entry)
        return entry


class HttpError(ProviderError):
    """An error status of the provider. code: of the error in its body."""

    def __init__(self, status: int, message: str, code: str | None) -> None:
        super().__init__(status, message)
        self.code = code


async def _problem(reply: aiohttp.ClientResponse) -> ProviderError:
    """The error as the OpenAI SDK words it (core/error.ts, makeMessage)."""
    try:
        raw = await reply.read()
    except (aiohttp.ClientError, TimeoutError):
        raw = b""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = raw.decode("utf-8", "replace")
        return HttpError(reply.status, text or "status code (no body)", None)
    error = body.get("error") if isinstance(body, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    if said and not isinstance(said, str):
        said = msgspec.json.encode(said).decode()
    if not said and error:
        said = msgspec.json.encode(error).decode()
    code = error.get("code") if isinstance(error, dict) else None
    return HttpError(reply.status, said or "status code (no body)", code if isinstance(code, str) else None)


def _is_tried_again(problem: ProviderError | ProviderDied | None) -> bool:
    if isinstance(problem, HttpError):
        return problem.status not in FINAL_STATUS and problem.code != "insufficient_quota"
    return True
