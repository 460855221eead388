"""Reads what a real LibreChat said: ../shared/librechat-transcripts beside the project, one call per file."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "librechat-transcripts"
_PHASES = ("_start", "_stream", "_messages")


@dataclass(slots=True)
class Recording:
    """One recorded call and its reply."""

    name: str
    method: str = "GET"
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    form: list[str] = field(default_factory=list)
    jar_in: str | None = None
    jar_out: str | None = None
    max_time_s: float | None = None
    status: int = 0
    reply_headers: list[tuple[str, str]] = field(default_factory=list)
    reply_body: bytes = b""

    @property
    def is_stream(self) -> bool:
        """Whether the reply is made of SSE events."""
        return ("Content-Type", "text/event-stream") in self.reply_headers or self.reply_body.startswith(
            b"event:"
        )

    @property
    def order(self) -> tuple[float, str, int]:
        """Where it stands in the story: by the reply's clock, then by name, a start before its stream."""
        date = next(value for name, value in self.reply_headers if name == "Date")
        phase = next((at for at, end in enumerate(_PHASES) if self.name.endswith(end)), 0)
        stem = re.sub(r"_(start|stream|messages)$", "", self.name)
        return parsedate_to_datetime(date).timestamp(), stem, phase


def recordings(folder: str = "") -> list[Recording]:
    """The recordings of one folder, in the order in which they were made.

    Raises FileNotFoundError when the folder is not there: a replay without recordings proves nothing.
    """
    if not FOLDER.is_dir():
        raise FileNotFoundError(f"{FOLDER} is missing: the recordings of the real LibreChat must lie there")
    paths = [p for p in (FOLDER / folder).glob("*.txt") if p.name != "browser_requests.txt"]
    return sorted((_read(path) for path in paths), key=lambda r: r.order)


def _read(path: Path) -> Recording:
    recording = Recording(path.stem)
    head, mark, body = path.read_bytes().partition(b"### body\n")
    if not mark:
        head, _, body = head.partition(b"\n\n")
    recording.reply_body = body
    for line in head.decode().splitlines():
        if line.startswith("### curl "):
            _read_call(recording, shlex.split(line.removeprefix("### curl ")))
        elif found := re.match(r"(?:< )?HTTP/1\.1 (\d+)", line):
            recording.status = int(found[1])
        elif recording.status and (found := re.match(r"(?:< )?([A-Za-z-]+): (.*)", line)):
            recording.reply_headers.append((found[1], found[2]))
    return recording


def _read_call(recording: Recording, words: list[str]) -> None:
    at = iter(words)
    for word in at:
        match word:
            case "-H":
                name, _, value = next(at).partition(": ")
                recording.headers[name] = value
            case "-d":
                recording.body = next(at)
                recording.method = "POST" if recording.method == "GET" else recording.method
            case "-F":
                recording.form.append(next(at))
                recording.method = "POST"
            case "-X":
                recording.method = next(at)
            case "-b":
                recording.jar_in = next(at)
            case "-c":
                recording.jar_out = next(at)
            case "--max-time":
                recording.max_time_s = float(next(at))
            case _:
                parts = urlsplit(word)
                recording.target = parts.path + (f"?{parts.query}" if parts.query else "")
