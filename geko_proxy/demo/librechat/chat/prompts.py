"""What the model is asked: the thread of messages, and LibreChat's request for a title."""

from __future__ import annotations

from geko_proxy.demo.librechat.chat.shapes import Speaker
from geko_proxy.demo.librechat.express import Json

_TITLE = "Provide a concise, 5-word-or-less title for the conversation, using title case and no punctuation."


def thread_prompt(speaker: Speaker, messages: list[Json]) -> list[Json]:
    """The thread as the model gets it; error parts are left out (contract §4.8)."""
    system = [{"role": "system", "content": speaker.instructions}] if speaker.instructions else []
    return system + [_message(message) for message in messages]


def title_prompt(text: str) -> list[Json]:
    """The title call; orders in the user's text reach the provider here too."""
    return [{"role": "user", "content": f"{_TITLE} User: {text} AI:"}]


def words_of(content: list[Json]) -> str:
    """All text and thought of an answer."""
    return "".join(str(part.get(part["type"], "")) for part in content if part["type"] in ("text", "think"))


def _message(message: Json) -> Json:
    if message["isCreatedByUser"]:
        files = message.get("files") or []
        pictures = [file for file in files if str(file.get("type", "")).startswith("image/")]
        text = {"type": "text", "text": message["text"]}
        shown = [{"type": "image_url", "image_url": {"url": file.get("filepath")}} for file in pictures]
        return {"role": "user", "content": [text, *shown] if shown else message["text"]}
    texts = [part["text"] for part in message.get("content") or [] if part["type"] == "text"]
    return {"role": "assistant", "content": "".join(texts) or message.get("text", "")}
