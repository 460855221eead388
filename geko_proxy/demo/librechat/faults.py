"""Failures by order and what the stand-in has seen; under /__standin__/, where LibreChat has no routes."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from geko_proxy.demo.librechat.express import Json, json_reply, text_reply

FaultKind = Literal["hang", "close", "cut", "eof", "status", "not_ready", "delay"]
CONTROL = "/__standin__/"
KEPT = 5000


@dataclass(slots=True)
class Fault:
    """A failure that the next `times` requests to `path` meet (all below it, when it ends with `*`).

    hang: no reply ever; close: the connection closes before a reply; cut: it breaks off after `after` events or
    bytes of the body; eof: an event stream ends well-formed after `after` events; status: this `status` and `body`;
    not_ready: the 503 of a booting LibreChat; delay: the right reply, `delay_s` seconds late.
    """

    path: str
    kind: FaultKind
    times: int = 1
    method: str | None = None
    after: int = 0
    status: int = 500
    body: str = "An unknown error occurred."
    delay_s: float = 0.0

    def meets(self, method: str, path: str) -> bool:
        """Whether a request runs into it."""
        if self.times <= 0 or self.method not in (None, method):
            return False
        return path.startswith(self.path[:-1]) if self.path.endswith("*") else path == self.path


@dataclass(frozen=True, slots=True)
class Cut:
    """How a reply that began is broken off."""

    after: int
    well_formed: bool

    def strike(self, request: web.Request) -> None:
        """Break the connection, unless the reply is to end well-formed."""
        if not self.well_formed and request.transport is not None:
            request.transport.abort()


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(slots=True)
class Faults:
    """Orders that wait for their request, and the last requests seen (`path` with its query, as sent)."""

    orders: list[Fault] = field(default_factory=list)
    received: deque[Received] = field(default_factory=lambda: deque(maxlen=KEPT))

    def take(self, request: web.Request) -> Fault | None:
        """Note a request down and return the fault that it meets."""
        target = request.raw_path
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in request.raw_headers]
        self.received.append(Received(request.method, target, headers))
        path = target.partition("?")[0]
        for fault in self.orders:
            if fault.meets(request.method, path):
                fault.times -= 1
                return fault
        return None


CUT = web.RequestKey("cut", Cut)


async def before(request: web.Request, fault: Fault) -> web.StreamResponse | None:
    """Do what the fault says before a handler runs; a reply means that none will."""
    if fault.kind == "hang":
        await asyncio.Event().wait()
    if fault.kind == "close":
        if request.transport is not None:
            request.transport.close()
        return web.Response()
    if fault.kind == "status":
        return text_reply(fault.body, fault.status)
    if fault.kind == "not_ready":
        said = {"code": "SERVER_NOT_READY", "error": "Server is still starting. Please retry in a moment."}
        return json_reply(said, 503, {"Retry-After": "1"})
    if fault.kind == "delay":
        await asyncio.sleep(fault.delay_s)
    if fault.kind in ("cut", "eof"):
        request[CUT] = Cut(fault.after, fault.kind == "eof")
    return None


async def cut_short(request: web.Request, reply: web.StreamResponse) -> web.StreamResponse:
    """Break off a reply that is no event stream."""
    cut = request.get(CUT)
    body = reply.body if isinstance(reply, web.Response) else None
    if cut is None or reply.prepared or not isinstance(body, bytes):
        return reply
    headers = {**reply.headers, "Content-Length": str(len(body))}
    broken = web.StreamResponse(status=reply.status, headers=headers)
    await broken.prepare(request)
    await broken.write(body[: min(cut.after, len(body) - 1)])
    cut.strike(request)
    return broken


async def control(request: web.Request, faults: Faults, log: deque[Json]) -> web.Response:
    """POST /__standin__/fail, GET /__standin__/log and /received, POST …/clear."""
    name = request.path.removeprefix(CONTROL)
    if name == "fail":
        faults.orders.append(Fault(**await request.json()))
    elif name == "clear":
        faults.orders.clear()
        faults.received.clear()
        log.clear()
    elif name == "log":
        return json_reply(list(log))
    elif name == "received":
        seen = [{"method": r.method, "path": r.path, "headers": r.headers} for r in faults.received]
        return json_reply(seen)
    else:
        return json_reply({"error": "fail, clear, log, received"}, 404)
    return json_reply({"ok": True})
