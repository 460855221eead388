"""Embeddings, pictures and sound (platform.openai.com/docs/api-reference: embeddings, images, audio)."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any, Final

import msgspec
from aiohttp import BodyPartReader, web

from geko_proxy.demo.provider.answers import Refusal, Service, booked, check_key, note, ordered, read_json
from geko_proxy.demo.provider.asked import Asked, BadCall, Json, Said, count, field_of, model_of
from geko_proxy.demo.provider.books import Usage
from geko_proxy.demo.provider.failures import error_reply
from geko_proxy.demo.provider.plan import WORDS
from geko_proxy.demo.provider.shape import encode

DIMENSIONS: Final = 16
# Output tokens of a square picture (platform.openai.com/docs/guides/image-generation, "Cost and latency").
PICTURE_TOKENS: Final = {"low": 272, "medium": 1056, "high": 4160}
_PIXEL: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_SILENCE: Final = (
    b"RIFF\x24\x00\x00\x00WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8) + b"data\0\0\0\0"
)
_WITHOUT_TOKENS: Final = ("whisper", "tts", "dall-e")  # billed by the minute, character or picture


async def embeddings(service: Service, request: web.Request) -> web.StreamResponse:
    """POST /v1/embeddings: the same text has the same vector."""
    return await _call(service, request, "embeddings")


async def images(service: Service, request: web.Request) -> web.StreamResponse:
    """POST /v1/images/generations"""
    return await _call(service, request, "images")


async def speech(service: Service, request: web.Request) -> web.StreamResponse:
    """POST /v1/audio/speech: a WAV without samples."""
    return await _call(service, request, "speech")


async def transcriptions(service: Service, request: web.Request) -> web.StreamResponse:
    """POST /v1/audio/transcriptions: a form with `file` and `model`."""
    return await _call(service, request, "transcriptions")


async def _call(service: Service, request: web.Request, api: str) -> web.StreamResponse:
    try:
        async with booked(service, request, api) as entry:
            check_key(service, request)
            body = await (_form(request) if api == "transcriptions" else read_json(request))
            try:
                asked = _READ[api](body)
                note(entry, asked)
                ordered(service, asked)
                reply, entry.usage = _MAKE[api](asked, body)
            except BadCall as bad:
                raise Refusal(400, str(bad), param=bad.param) from None
            entry.status, entry.outcome, entry.answered = 200, "done", True
            entry.usage_sent = entry.usage.total > 0
            return reply
    except Refusal as refused:
        return error_reply(api, refused.status, str(refused), **refused.more)


async def _form(request: web.Request) -> Json:
    if not request.content_type.startswith("multipart/"):
        raise Refusal(400, "expected multipart/form-data")
    form: Json = {}
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise Refusal(400, "a part of the form has no name")
        raw = await part.read()
        form[part.name] = bytes(raw) if part.filename else raw.decode("utf-8", "replace")
    if not isinstance(form.get("file"), bytes):
        raise Refusal(400, "Missing required parameter: 'file'.", param="file")
    return form


def _asked(api: str, body: Json, texts: list[str]) -> Asked:
    user = str(field_of(body, "user", str, ""))
    return Asked(api, model_of(body), user, False, [Said("user", texts)])


def _read_embeddings(body: Json) -> Asked:
    return _asked("embeddings", body, [text for text in _inputs(body) if isinstance(text, str)])


def _inputs(body: Json) -> list[Any]:
    """The inputs, each a text or a list of token numbers. Raises BadCall."""
    given = field_of(body, "input", (str, list), "")
    if not given:
        raise BadCall("'input' cannot be an empty string.", "input")
    if isinstance(given, list) and all(isinstance(each, int) for each in given):
        return [given]
    return given if isinstance(given, list) else [given]


def _embeddings(asked: Asked, body: Json) -> tuple[web.Response, Usage]:
    size = field_of(body, "dimensions", int, DIMENSIONS)
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": at, "embedding": _vector(each, size, packed=packed)}
        for at, each in enumerate(_inputs(body))
    ]
    used = sum(count(each) if isinstance(each, str) else len(each) for each in _inputs(body))
    usage = {"prompt_tokens": used, "total_tokens": used}
    return _json({"object": "list", "data": data, "model": asked.model, "usage": usage}), Usage(prompt=used)


def _vector(given: Any, size: int, *, packed: bool) -> Any:
    if not 1 <= size <= 4096:
        raise BadCall("Invalid value for 'dimensions'.", "dimensions")
    seed = hashlib.shake_128(msgspec.json.encode(given)).digest(size)
    numbers = [(byte - 127.5) / 127.5 for byte in seed]
    return base64.b64encode(struct.pack(f"<{size}f", *numbers)).decode() if packed else numbers


def _read_prompt(body: Json) -> Asked:
    prompt = field_of(body, "prompt", str, "")
    if not prompt:
        raise BadCall("Missing required parameter: 'prompt'.", "prompt")
    return _asked("images", body, [prompt])


def _images(asked: Asked, body: Json) -> tuple[web.Response, Usage]:
    number = field_of(body, "n", int, 1)
    if not 1 <= number <= 10:
        raise BadCall("Invalid value for 'n'.", "n")
    found: Json = {"created": 1_700_000_000, "data": [{"b64_json": _PIXEL}] * number}
    if _is_free(asked):
        return _json(found), Usage()
    each = PICTURE_TOKENS.get(str(body.get("quality") or "low"), PICTURE_TOKENS["medium"])
    usage = Usage(prompt=count(asked.last_user), completion=each * number)
    details = {"text_tokens": usage.prompt, "image_tokens": 0}
    found["usage"] = {
        "input_tokens": usage.prompt,
        "output_tokens": usage.completion,
        "total_tokens": usage.total,
        "input_tokens_details": details,
    }
    return _json(found), usage


def _read_speech(body: Json) -> Asked:
    text = field_of(body, "input", str, "")
    if not text:
        raise BadCall("Missing required parameter: 'input'.", "input")
    return _asked("speech", body, [text])


def _speech(asked: Asked, body: Json) -> tuple[web.Response, Usage]:
    return web.Response(body=_SILENCE, content_type="audio/wav"), Usage()


def _read_form(body: Json) -> Asked:
    return _asked("transcriptions", body, [str(body.get("prompt") or "")])


def _transcription(asked: Asked, body: Json) -> tuple[web.Response, Usage]:
    """One second of sound is 8,000 bytes, 10 tokens and a word."""
    seconds = max(1, len(body["file"]) // 8000)
    text = " ".join(WORDS[at % len(WORDS)] for at in range(seconds))
    if body.get("response_format") == "text":
        return web.Response(text=text), Usage()
    if _is_free(asked):
        return _json({"text": text, "usage": {"type": "duration", "seconds": seconds}}), Usage()
    usage = Usage(prompt=10 * seconds + count(asked.last_user), completion=count(text))
    told = {
        "type": "tokens",
        "input_tokens": usage.prompt,
        "output_tokens": usage.completion,
        "total_tokens": usage.total,
        "input_token_details": {"text_tokens": count(asked.last_user), "audio_tokens": 10 * seconds},
    }
    return _json({"text": text, "usage": told}), usage


def _is_free(asked: Asked) -> bool:
    return asked.model.startswith(_WITHOUT_TOKENS)


def _json(body: Json) -> web.Response:
    return web.Response(body=encode(body), content_type="application/json")


_READ: Final = {
    "embeddings": _read_embeddings, "images": _read_prompt, "speech": _read_speech, "transcriptions": _read_form,
}  # fmt: skip
_MAKE: Final = {
    "embeddings": _embeddings, "images": _images, "speech": _speech, "transcriptions": _transcription,
}  # fmt: skip
