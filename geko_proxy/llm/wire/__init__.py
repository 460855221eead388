"""The APIs of model providers on the wire: one class each, made for one call. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from geko_proxy.errors import Refused
from geko_proxy.llm.wire.base import ModelCall
from geko_proxy.llm.wire.chat_completions import ChatCompletions
from geko_proxy.llm.wire.forms import Form
from geko_proxy.llm.wire.messages import Messages
from geko_proxy.llm.wire.responses import Responses
from geko_proxy.llm.wire.whole_replies import Embeddings, Images, Speech, Transcription

CALLS: Final[Mapping[str, type[ModelCall]]] = {
    "chat_completions": ChatCompletions,
    "responses": Responses,
    "messages": Messages,
    "embeddings": Embeddings,
    "images": Images,
    "speech": Speech,
}
FORMS: Final = frozenset({"transcriptions", "translations"})


def model_call(operation: str, body: dict[str, Any]) -> ModelCall:
    """The call of an operation. Raises Refused 400 naming the field, 404 for an operation without a call."""
    shape = CALLS.get(operation)
    if shape is None:
        raise Refused(404, "not_found", "Endpoint not found")
    return shape(body)


def form_call(body: bytes, content_type: str) -> ModelCall:
    """The call of an operation in FORMS. Raises Refused 400."""
    return Transcription(Form(body, content_type))
