"""The door: opens an exchange for a request, and refuses what no filter needs to see."""

from __future__ import annotations

import itertools
import os
import re
import time
from typing import Protocol

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from geko_proxy.browser_safety import Cors
from geko_proxy.client_request import BodyReader, ClientAddress
from geko_proxy.config import ServerSettings
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Request, Route
from geko_proxy.headers import is_same_origin
from geko_proxy.librechat import Rule
from geko_proxy.peers.hop import Hop
from geko_proxy.routing import BadPath, Match, normalise_path
from geko_proxy.workspaces.hosts import compile_pattern

MAX_PUBLIC_BODY_BYTES = 16 * 1024  # of requests that need no sign-in
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


class Classifier(Protocol):
    """A listener's route table."""

    def classify(self, method: str, path: str) -> Match[Rule]:
        """The rule for a normalised path; a rule is always found."""

    def methods(self, path: str) -> set[str]:
        """The methods that are served under a path."""


class Door:
    """Knows the routes and who may come how; says nothing about who somebody is."""

    def __init__(self, classifier: Classifier, settings: ServerSettings) -> None:
        self._classifier = classifier
        self._settings = settings
        self._cors = Cors(settings.cors_origins)
        self._client_ip = ClientAddress(settings.trusted_proxies)
        pattern = settings.workspace_hosts
        self._workspace_host = compile_pattern(pattern) if pattern else None
        self._ids = itertools.count(1)
        self._id_prefix = os.urandom(6).hex()

    def open(self, request: web.BaseRequest, hop: Hop | None = None) -> Exchange:
        """Make the exchange of a request; a hopeless one gets the route BLOCKED.

        hop: for a request that another instance passes on, what that one knows of the client.
        """
        exchange_id = f"{self._id_prefix}{next(self._ids):06x}" if hop is None else hop.request_id
        raw_path, _, query = request.raw_path.partition("?")
        bad: str | None = None
        try:
            path = normalise_path(raw_path)
        except BadPath as error:
            path, bad = "/", str(error)
        rule, params = self._classifier.classify(request.method, path)
        cookies = unambiguous_cookies(request) if "Cookie" in request.headers else {}
        body_source = BodyReader(request, self._settings.max_upload_bytes) if request.can_read_body else None
        asked = Request(
            request.method,
            path,
            query.partition("#")[0],
            request.headers if hop is None else _with_host(request.headers, hop.host),
            client_ip=self._client_ip.of(request) if hop is None else hop.client_ip,
            cookies=cookies,
            secure=self._client_ip.is_secure(request) if hop is None else hop.secure,
            source=body_source,
            max_json_bytes=self._settings.max_json_bytes,
        )
        exchange = Exchange(exchange_id, asked, rule.route, rule.operation, params, time.time())
        exchange.hop = hop
        exchange.allowed_origin = self._cors.allowed(request.headers.get("Origin"))
        if bad is not None or not _HOST.fullmatch(request.host):
            exchange.route, exchange.operation = Route.BLOCKED, "bad_path"
        elif (
            len(request.headers.getall("Authorization", ())) > 1
        ):  # a proxy before may have looked at another one
            exchange.route, exchange.operation = Route.BLOCKED, "two_credentials"
        elif request.headers.get("Upgrade", "").lower() == "websocket":
            exchange.route, exchange.operation = Route.BLOCKED, "websocket"
        elif body_source is not None and not rule.upload:
            public = rule.route is Route.PUBLIC
            body_source.limit = MAX_PUBLIC_BODY_BYTES if public else self._settings.max_json_bytes
        return exchange

    def check_https(self, exchange: Exchange, request: web.BaseRequest) -> None:
        """Where browsers shall come over https, one that did not is sent there (RFC 6797 §7.2)."""
        asked = exchange.request
        if exchange.hop is not None:
            return  # the other instance has looked
        if not self._settings.public_url.startswith("https://") or not self._client_ip.is_plain(request):
            return
        if exchange.route is Route.ASSET and asked.method in ("GET", "HEAD"):
            target = self._https_origin(request) + asked.path + ("?" + asked.query if asked.query else "")
            raise Refused(308, "https_required", "Use https.", headers={"Location": target})
        raise Refused(403, "https_required", "Use https.")

    def _https_origin(self, request: web.BaseRequest) -> str:
        """Where to go on: the workspace's own address, or the public one."""
        if self._workspace_host is not None and self._workspace_host.fullmatch(request.host.lower()):
            return "https://" + request.host.lower().partition(":")[0]
        return self._settings.public_url

    def check_origin(self, request: web.BaseRequest) -> None:
        """Sign-in sets and clears a cookie: another site's page must not make a browser do that."""
        origin = request.headers.get("Origin")
        if self._cors.allowed(origin) is not None:
            return  # its pages sign in with what they send, not with a cookie
        foreign = origin != self._settings.public_url and not is_same_origin(origin, request.host)
        if foreign or request.headers.get("Sec-Fetch-Site") == "cross-site":
            raise Refused(403, "foreign_origin", "This page may not sign you in or out.")

    def refusal(self, exchange: Exchange) -> Refused:
        """What an exchange with the route BLOCKED gets."""
        if exchange.operation == "bad_path":
            return Refused(400, "bad_path", "The path or the Host header is malformed.")
        if exchange.operation == "two_credentials":
            return Refused(400, "two_credentials", "There is more than one Authorization header.")
        if exchange.operation == "websocket":  # LibreChat has none (contract §8)
            return Refused(400, "upgrade_refused", "There are no WebSockets here.")
        allowed = self._classifier.methods(exchange.request.path)
        if exchange.request.method == "OPTIONS" and allowed:
            headers = {"Allow": ", ".join(sorted(allowed | {"OPTIONS"}))}
            if exchange.allowed_origin is not None:
                headers |= self._cors.preflight(allowed)
            return Refused(204, "options", "", headers=headers)
        if exchange.operation == "unknown" and allowed and exchange.request.method not in allowed:
            allow = {"Allow": ", ".join(sorted(allowed))}
            return Refused(405, "method_not_allowed", "This method is not served here.", headers=allow)
        return Refused(404, "not_found", "Endpoint not found")


def _with_host(headers: CIMultiDictProxy[str], host: str) -> CIMultiDictProxy[str]:
    changed = CIMultiDict(headers)
    changed["Host"] = host
    return CIMultiDictProxy(changed)


def unambiguous_cookies(request: web.BaseRequest) -> dict[str, str]:
    """The cookies; a name that comes twice is left out: a neighbouring host can plant one beside the real one."""
    names = [
        pair.partition("=")[0].strip()
        for header in request.headers.getall("Cookie")
        for pair in header.split(";")
    ]
    return {name: value for name, value in request.cookies.items() if names.count(name) < 2}
