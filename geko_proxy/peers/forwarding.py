"""Passes a client's request on to the instance that reads its answer, and gives that one's reply back.

The request goes as the client sent it: the other instance authenticates and authorises it once more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

from aiohttp import web
from multidict import CIMultiDict

from geko_proxy.errors import Refused, UpstreamError
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.headers import reply_headers
from geko_proxy.peers.finder import Place
from geko_proxy.peers.hop import HEADER, Hop, HopSigner
from geko_proxy.peers.instances import Instances
from geko_proxy.upstream import Upstream, UpstreamOptions

log = logging.getLogger("geko.peers")

OPTIONS: Final = UpstreamOptions(
    connect_timeout_ms=2000,
    read_timeout_ms=12_000,  # an answer that is about to begin is waited for there
    idle_timeout_ms=0,  # a slow model is silent; `Instances` sees when the other one is gone
    keepalive_timeout_ms=20_000,  # below the server's 75 s
    max_connections=16_384,  # each listener has one
)
RETRY_AFTER_S: Final = 2
MAX_AGE_S: Final = 60.0  # how far two machines' clocks may be apart
WRONG_INSTANCE: Final = 421  # RFC 9110 §15.5.20

# of one connection (RFC 9110 §7.6.1), made anew by the client, or said by the hop
NOT_PASSED: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade expect host content-length forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-real-ip".split()
) | {HEADER.lower().encode()}
PASSED_BACK: Final = {b"www-authenticate": "WWW-Authenticate"}


class Peers:
    """The ways to the other instances. timeout_ms: until the head of a reply that waits for LibreChat."""

    def __init__(
        self,
        instances: Instances,
        signer: HopSigner,
        timeout_ms: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.instances = instances
        self._signer = signer
        self._clock = clock
        self._timeout_ms = timeout_ms + OPTIONS.read_timeout_ms
        self._ways: dict[UUID, Upstream] = {}
        self._closing: set[asyncio.Task[None]] = set()
        instances.on_gone = self._cut

    async def start(self, url: str) -> None:
        """Announce this instance under a URL; empty: others can't reach it."""
        await self.instances.start(url)

    async def stop(self) -> None:
        """Take the announcement back and close all ways."""
        await self.instances.stop()
        for instance_id in tuple(self._ways):
            await self._ways.pop(instance_id).close()

    def admit(self, request: web.BaseRequest) -> Hop | None:
        """What another instance says about a request that it passes on; None: it comes from a client.

        A header that a client has made up is as if it were not there.
        """
        value = request.headers.get(HEADER)
        if value is None:
            return None
        hop = self._signer.read(value, request.method, request.raw_path, request.raw_headers)
        if hop is None:
            log.warning("a client at %s made up the header of an instance", request.remote)
        return hop

    def check(self, hop: Hop | None) -> None:
        """Raises Refused 421 for a request that is meant for another instance, or that is old."""
        if hop is None:
            return
        apart_s = self._clock() - hop.at
        if abs(apart_s) > MAX_AGE_S:
            log.error("an instance's request is %.0f s old: set the machines' clocks", apart_s)
        if abs(apart_s) > MAX_AGE_S or hop.target != self.instances.instance_id:
            raise Refused(WRONG_INSTANCE, "wrong_instance", "This request is for another instance.")

    async def forward(self, exchange: Exchange, request: web.BaseRequest, place: Place) -> Reply:
        """Send a request to the instance of `place`; give back head and unread body. Raises Refused 503."""
        way = self._way(place)
        asked = exchange.request
        target = asked.path + ("?" + asked.query if asked.query else "")
        hop = Hop(
            target=place.instance_id,
            at=self._clock(),
            client_ip=asked.client_ip,
            host=request.host,
            secure=asked.secure,
            request_id=exchange.id,
            turn_id=place.turn_id,
        )
        headers = list(_passed(request))
        headers.append((HEADER.encode(), self._signer.sign(hop, asked.method, target, headers)))
        timeout_ms = None if asked.method == "GET" else self._timeout_ms
        try:
            reply = await way.request(
                asked.method, target, headers, asked.body or None, timeout_ms=timeout_ms
            )
        except UpstreamError as error:
            log.warning("%s: instance %s at %s: %s", exchange.id, place.instance_id, place.url, error)
            raise unreachable() from None
        if reply.status == WRONG_INSTANCE:
            reply.close()
            log.error(
                "%s: %s is not instance %s: check server.peer_url", exchange.id, place.url, place.instance_id
            )
            raise unreachable()
        kept = _back(reply.headers)
        if reply.bodiless:
            return Reply(reply.status, kept)
        return Reply(reply.status, kept, source=reply)

    def _way(self, place: Place) -> Upstream:
        if not place.url:
            if place.url is not None:
                log.error("instance %s can't be reached: it has no server.peer_url", place.instance_id)
            raise unreachable()
        way = self._ways.get(place.instance_id)
        if way is None or way.origin != place.url:
            way = self._ways[place.instance_id] = Upstream(place.url, OPTIONS)
        return way

    def _cut(self, instance_id: UUID) -> None:
        """End what still comes, or seems to, from an instance that is gone."""
        way = self._ways.pop(instance_id, None)
        if way is not None:
            task = asyncio.create_task(way.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def unreachable() -> Refused:
    """The answer is there, the instance that reads it is not."""
    text = "The answer can't be reached at the moment. Try again soon."
    return Refused(503, "answer_unreachable", text, retry_after_s=RETRY_AFTER_S)


def _passed(request: web.BaseRequest) -> Iterator[tuple[bytes, bytes]]:
    named = {
        name.strip().lower().encode("utf-8", "surrogateescape")
        for value in request.headers.getall("Connection", ())
        for name in value.split(",")
    }
    for name, value in request.raw_headers:
        if name.lower() not in NOT_PASSED and name.lower() not in named:
            yield name, value


def _back(raw: list[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    kept = reply_headers(raw, "")
    for name, value in raw:
        known = PASSED_BACK.get(name.lower())
        if known is not None:
            kept[known] = value.decode("latin-1")
    return kept
