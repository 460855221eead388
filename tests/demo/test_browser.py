"""Repeats every request that LibreChat's own web client made while registering, chatting and reloading."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import aiohttp

from geko_proxy.demo.librechat import StandIn
from tests.demo.comparison import BROWSER
from tests.demo.recordings import FOLDER

# Our replies to these would have a body where the browser had the same one in its cache and showed no type.
_FROM_CACHE = "-"
_LINE = re.compile(
    r" *\d+ms (?P<method>\w+) (?P<target>\S+) -> (?P<status>\d+) .*? auth=(?P<auth>\S+).*? cookies=(?P<cookies>\S+) "
    r"type=(?P<type>\S+) .*resp=(?P<resp>.+?) enc=(?P<enc>\S+) cache=(?P<cache>.+)"
)


@dataclass
class Browser:
    """The web client's state: token, cookies, the conversation it opened."""

    url: str
    client: aiohttp.ClientSession
    bodies: dict[str, list[str]]
    token: str = ""
    cookies: str = ""
    conversation: str = ""
    recorded_conversation: str = "41fded85-d594-4882-913c-0a1b2c0befa9"

    async def repeat(self, line: re.Match[str]) -> list[str]:
        """Send one request again; returns what differs."""
        target = line["target"].replace(self.recorded_conversation, self.conversation)
        body = self.bodies[f"{line['method']} {line['target']}"].pop(0) if line["method"] != "GET" else ""
        body = body.replace(self.recorded_conversation, self.conversation)
        headers = {"User-Agent": BROWSER, "Accept-Encoding": "gzip, deflate, br, zstd"}
        headers |= {"Authorization": f"Bearer {self.token}"} if line["auth"] != "-" else {}
        headers |= {"Cookie": self.cookies} if line["cookies"] != "-" else {}
        headers |= {"Content-Type": "application/json"} if body else {}
        headers |= {"Range": "bytes=0-"} if line["status"] == "206" else {}
        async with self.client.request(
            line["method"], self.url + target, headers=headers, data=body
        ) as reply:
            raw = await reply.read()
        self._learn(target, reply, raw)
        return [f"{line['method']} {target}: {found}" for found in _differences(line, reply)]

    def _learn(self, target: str, reply: aiohttp.ClientResponse, raw: bytes) -> None:
        if target.startswith("/api/auth/") and raw.startswith(b'{"token"'):
            self.token = json.loads(raw)["token"]
            self.cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in reply.cookies.items())
        if target == "/api/agents/chat/Mock":
            self.conversation = json.loads(raw)["conversationId"]


def _differences(line: re.Match[str], reply: aiohttp.ClientResponse) -> list[str]:
    found = (
        [] if str(reply.status) == line["status"] else [f"status {reply.status}, recorded {line['status']}"]
    )
    from_cache = line["resp"] == _FROM_CACHE
    if not from_cache and reply.headers.get("Content-Type") != line["resp"]:
        found.append(f"type {reply.headers.get('Content-Type')}, recorded {line['resp']}")
    if not from_cache and reply.headers.get("Cache-Control", "-") != line["cache"]:
        found.append(f"cache {reply.headers.get('Cache-Control')}, recorded {line['cache']}")
    encoding = reply.headers.get("Content-Encoding", "-")
    if line["enc"] in ("gzip", "identity") and encoding != line["enc"]:
        found.append(f"encoding {encoding}, recorded {line['enc']}")
    return found


def _bodies(text: str) -> dict[str, list[str]]:
    """Bodies of the requests that had one, by method and path, in order."""
    found: dict[str, list[str]] = {}
    for block in re.split(
        r"^### ", text.partition("==== bodies")[2].partition("==== console")[0], flags=re.M
    )[1:]:
        head, _, body = block.partition("\n\n")
        found.setdefault(head.splitlines()[0], []).append(body.strip())
    return found


async def test_every_request_of_the_web_client() -> None:
    text = (FOLDER / "browser_requests.txt").read_text()
    lines = [line for line in text.splitlines() if re.match(r" *\d+ms ", line)]
    matches = [found for found in map(_LINE.fullmatch, lines) if found]
    assert len(matches) == len(lines) > 150
    jar = aiohttp.DummyCookieJar()
    async with StandIn() as lc, aiohttp.ClientSession(cookie_jar=jar, auto_decompress=False) as client:
        browser = Browser(lc.url, client, _bodies(text))
        assert not [difference for line in matches for difference in await browser.repeat(line)]
    assert not any(browser.bodies.values())
