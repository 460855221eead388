"""Compares a reply with the recorded one, and learns which of our ids stands for which recorded id."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from tests.demo.recordings import Recording

BROWSER = "Mozilla/5.0 (X11; Linux x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
_VOLATILE = {
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "object id": r"[0-9a-f]{24}",
    "agent": r"agent_[\w-]{21}",
    "step": r"step_[\w-]{21}",
    "completion": r"chatcmpl-[0-9a-f]{32}",
    "remote completion": r"chatcmpl-[\w-]{21}",
    "message alias": r"msg_[\w-]{21}",
    "conversation alias": r"convo_[\w-]{21}",
    "response": r"resp_\w+",
    "response item": r"msg_\w+",
    "share": r"(?=[\w-]*[A-Z])(?=\S*\d)[\w-]{21}",
    "token": r"<jwt>|eyJ[\w-]+\.[\w-]+\.[\w-]+",
    "key": r"<api-key>|sk-[0-9a-f]{64}",
    "key prefix": r"sk-[0-9a-f]{5}",
}
_IDS = {"uuid", "object id", "agent", "share"}
_EXACT_NUMBERS = {
    "input_tokens", "output_tokens", "total_tokens", "prompt_tokens", "completion_tokens", "cache_read", "seq", "index",
    "deletedCount", "sequence_number", "input", "output", "cacheRead", "completedOutputTokens", "bytes", "height",
}  # fmt: skip
_SAME_HEADERS = (
    "content-type", "cache-control", "content-encoding", "vary", "connection", "keep-alive", "x-accel-buffering",
    "x-robots-tag", "access-control-allow-origin", "transfer-encoding", "accept-ranges", "pragma", "expires",
    "x-ratelimit-limit",
)  # fmt: skip
_DELTAS = ("on_message_delta", "on_reasoning_delta")


@dataclass(slots=True)
class Reply:
    """What the stand-in answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(slots=True)
class Ids:
    """Recorded ids and ours; the same recorded id must always be the same one here."""

    ours: dict[str, str] = field(default_factory=dict)

    def translate(self, text: str) -> str:
        """Put our ids where a recorded request names recorded ones."""
        return re.sub(r"[\w-]{20,}", lambda found: self._of(found[0]), text)

    def _of(self, word: str) -> str:
        if word in self.ours:
            return self.ours[word]
        for recorded, ours in self.ours.items():  # a file name begins with the file's id
            if word.startswith(f"{recorded}__"):
                return ours + word.removeprefix(recorded)
        return word

    def learn(self, recorded: str, ours: str) -> bool:
        """Note a pair down; False if it contradicts what is known."""
        return self.ours.setdefault(recorded, ours) == ours


def compare(recording: Recording, reply: Reply, ids: Ids) -> list[str]:
    """All differences that matter."""
    found = (
        [] if recording.status == reply.status else [f"status {reply.status}, recorded {recording.status}"]
    )
    found += _headers(recording, reply)
    if recording.is_stream:
        return found + _streams(recording, reply, ids)
    recorded, ours = recording.reply_body.rstrip(b"\n"), reply.body.rstrip(b"\n")
    try:
        return found + _values("body", json.loads(recorded), json.loads(ours), ids)
    except ValueError:
        pass
    if ("Content-Type", "image/png") in recording.reply_headers:  # its bytes did not survive the recording
        return found
    if b"<!DOCTYPE html>" in recorded:
        return found + ([] if b"<!DOCTYPE html>" in ours else ["no HTML"])
    return found + ([] if recorded == ours else [f"body {ours[:200]!r}, recorded {recorded[:200]!r}"])


def _headers(recording: Recording, reply: Reply) -> list[str]:
    recorded = {name.lower(): value for name, value in recording.reply_headers}
    ours = {name.lower(): value for name, value in reply.headers}
    found = [f"header {name} is missing" for name in recorded.keys() - ours.keys()]
    found += [f"header {name} is too much" for name in ours.keys() - recorded.keys()]
    for name in _SAME_HEADERS:
        if name in recorded and name in ours and recorded[name] != ours[name]:
            found.append(f"header {name}: {ours[name]}, recorded {recorded[name]}")
    if (
        recorded.get("content-length") == ours.get("content-length")
        and recording.reply_body == reply.body + b"\n"
    ):
        same = (
            "etag" not in recorded or recorded["etag"] == ours.get("etag") or "/images/" in recording.target
        )
        found += [] if same else ["the ETag of the same body differs"]
    cookies = [_cookies(headers) for headers in (recording.reply_headers, reply.headers)]
    return found if cookies[0] == cookies[1] else [*found, f"cookies {cookies[1]}, recorded {cookies[0]}"]


def _cookies(headers: list[tuple[str, str]]) -> list[str]:
    """Names and attributes; of Expires only whether it deletes."""
    kept = []
    for name, value in headers:
        if name.lower() == "set-cookie":
            cookie, _, attributes = value.partition("; ")
            attributes = re.sub(
                r"Expires=\w+, \d\d \w+ (?!1970)\d{4} [\d:]+ GMT", "Expires=later", attributes
            )
            kept.append(f"{cookie.partition('=')[0]}; {attributes}")
    return kept


def events(body: bytes) -> list[tuple[str, Any]]:
    """SSE events as (name, data); an unfinished last one is left out."""
    found = []
    whole = body.decode().replace("\n\n\n", "\n\n").split("\n\n")[:-1]
    for block in whole:
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in lines:
            data = lines["data"]
            found.append((lines.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found


def _kind(event: tuple[str, Any]) -> str:
    name, data = event
    if not isinstance(data, dict):
        return str(data)
    for key in ("event", "object"):
        if key in data:
            return str(data[key])
    marks = [key for key in ("created", "final", "sync", "error") if key in data]
    return f"{name} {marks[0] if marks else ''}".strip() or "data"


def _streams(recording: Recording, reply: Reply, ids: Ids) -> list[str]:
    recorded, ours = events(recording.reply_body), events(reply.body)
    if recording.max_time_s is not None or b'"aborted":true' in recording.reply_body:
        recorded, ours = _shortened(recorded), _shortened(ours)
    kinds = [[_kind(e) for e in found if _kind(e) != "title"] for found in (recorded, ours)]
    if kinds[0] != kinds[1]:
        return [f"events {_runs(kinds[1])}, recorded {_runs(kinds[0])}"]
    titles = [[e for e in found if _kind(e) == "title"] for found in (recorded, ours)]
    found = [] if len(titles[0]) == len(titles[1]) else [f"{len(titles[1])} title events"]
    pairs = zip(
        [e for e in recorded if _kind(e) != "title"] + titles[0],
        [e for e in ours if _kind(e) != "title"] + titles[1],
        strict=False,
    )
    for one, other in pairs:
        found += _values(_kind(one), list(one), list(other), ids)
    return found


def _shortened(found: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """With one delta for many: how far a stopped stream got is chance."""
    kept: list[tuple[str, Any]] = []
    for event in found:
        kind = _kind(event)
        repeated = kind in (*_DELTAS, "chat.completion.chunk") and any(_kind(e) == kind for e in kept[1:])
        if not repeated:
            kept.append(event)
    return [
        (name, json.loads(re.sub(r'"text": ?"\w+ ?"', '"text":"word"', json.dumps(data))))
        for name, data in kept
    ]


def _runs(kinds: list[str]) -> str:
    return ", ".join(dict.fromkeys(kinds)) + f" ({len(kinds)})"


def _values(where: str, recorded: Any, ours: Any, ids: Ids) -> list[str]:
    if isinstance(recorded, dict) and isinstance(ours, dict):
        found = [f"{where}.{key} is missing" for key in recorded.keys() - ours.keys()]
        found += [f"{where}.{key} is too much" for key in ours.keys() - recorded.keys()]
        for key in recorded.keys() & ours.keys():
            found += _values(f"{where}.{key}", recorded[key], ours[key], ids)
        return found
    if isinstance(recorded, list) and isinstance(ours, list):
        if len(recorded) != len(ours):
            return [f"{where}: {len(ours)} elements, recorded {len(recorded)}"]
        pairs = enumerate(zip(recorded, ours, strict=True))
        return [problem for at, (a, b) in pairs for problem in _values(f"{where}[{at}]", a, b, ids)]
    return [] if _same(where, recorded, ours, ids) else [f"{where}: {ours!r}, recorded {recorded!r}"]


def _same(where: str, recorded: Any, ours: Any, ids: Ids) -> bool:
    if isinstance(recorded, str) and isinstance(ours, str):
        return _same_text(recorded, ours, ids)
    number = (int, float)
    if isinstance(recorded, number) and isinstance(ours, number) and not isinstance(recorded, bool):
        return where.rpartition(".")[2] not in _EXACT_NUMBERS or recorded == ours
    return bool(recorded == ours)


def _same_text(recorded: str, ours: str, ids: Ids) -> bool:
    for kind, pattern in _VOLATILE.items():
        if re.fullmatch(pattern, recorded) and re.fullmatch(pattern, ours):
            return kind not in _IDS or ids.learn(recorded, ours)
    if recorded == ours or ids.translate(recorded) == ours:
        return True
    if recorded.startswith("the quick brown fox") and min(len(recorded), len(ours)) > 40:
        return recorded.startswith(ours.rstrip()) or ours.startswith(recorded.rstrip())
    if recorded.startswith(("/images/", "/uploads/", "src/uploads/")):
        return re.sub(r"[0-9a-f-]{24,36}", "", recorded) == re.sub(r"[0-9a-f-]{24,36}", "", ours)
    if recorded.startswith('{"type"'):
        return _values("", json.loads(recorded), json.loads(ours), ids) == []
    return False
