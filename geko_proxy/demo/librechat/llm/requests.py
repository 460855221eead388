"""Address, headers and body of one model call, as LibreChat's clients write them (contract §4.9)."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from geko_proxy.demo.librechat.chat.provider import ModelCall
from geko_proxy.demo.librechat.express import Json
from geko_proxy.demo.librechat.settings import Endpoint

TEMPLATES: Final = {
    "x-geko-user": "{{LIBRECHAT_USER_ID}}",
    "x-geko-conversation": "{{LIBRECHAT_BODY_CONVERSATIONID}}",
    "x-geko-message": "{{LIBRECHAT_BODY_MESSAGEID}}",
    "x-geko-parent": "{{LIBRECHAT_BODY_PARENTMESSAGEID}}",
}
# measured with LibreChat's own @librechat/agents against demo.provider
_LANGCHAIN: Final = "langchainjs-openai/1.0.0 ((node/v20.20.2; linux; x64))"
_AXIOS: Final = "axios/1.16.0"


def address(llm_url: str, endpoint: Endpoint, path: str) -> str:
    """`{llm_url}/{provider}/v1/{path}`"""
    return f"{llm_url.rstrip('/')}/{quote(endpoint.path, safe='')}/v1/{path}"


def call_headers(call: ModelCall, endpoint: Endpoint, key: str) -> dict[str, str]:
    """Headers of a call: placeholders resolved, those without a value empty (pkg/utils/env.ts:164)."""
    resolved = {
        "x-geko-user": call.user_id,
        "x-geko-conversation": call.conversation_id or "",
        "x-geko-message": call.message_id or "",
        "x-geko-parent": call.parent_id or "",
    }
    return {
        "Authorization": f"Bearer {key}",
        "Accept": "application/json",
        "User-Agent": _LANGCHAIN,
        "X-Stainless-Retry-Count": "0",
        "X-Stainless-Lang": "js",
        **resolved,
        **_kind(endpoint),
    }


def list_headers(user_id: str, endpoint: Endpoint, key: str) -> dict[str, str]:
    """Headers of a model list: only the user's placeholder is resolved (contract §4.2)."""
    return {
        "Authorization": f"Bearer {key}",
        "Accept": "application/json, text/plain, */*",
        "User-Agent": _AXIOS,
        **TEMPLATES,
        "x-geko-user": user_id,
        **_kind(endpoint),
    }


def _kind(endpoint: Endpoint) -> dict[str, str]:
    return {"x-geko-kind": endpoint.kind} if endpoint.kind else {}


def call_body(call: ModelCall, *, stream: bool) -> Json:
    """Body of a chat/completions call. Without streamUsage no `stream_options` are sent (contract §0.3)."""
    body: Json = {"model": call.model, "user": call.user_id, "stream": stream}
    if call.tools:
        body["tools"] = call.tools
    if stream and call.asks_usage:
        body["stream_options"] = {"include_usage": True}
    if call.max_tokens:
        body["max_tokens"] = call.max_tokens
    body["messages"] = call.messages
    return body
