"""The web client's shell: a small index.html, assets under the real client's names, ranges, gzip variants.

The scripts are stubs: this is for a proxy to carry, not for a browser to run.
"""

from __future__ import annotations

import gzip
import re
import time
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache

from aiohttp import web

from geko_proxy.demo.librechat.express import etag, text_reply
from geko_proxy.demo.librechat.routes import Call

STARTED_AT = float(int(time.time()))
_SCRIPTS = """
    AccountSettings.BOCFxK9P BookmarkNav.AkYPjc2H MyFilesModal.CTOcQJOo ProjectCreateDialog.k65xsytu
    advanced-inputs.BKUrQSBb animations.Cg77P7xO avatars.CH7OGiPh code-editor.CMtCNxFi codemirror-core.DCeggAsc
    date-utils.7tLVf9uC forms.BEEooEiq forms.CA710KHo framer-motion.CMPOPEls headlessui.CLu2eCui hooks.Bi3Cm4Qy
    http-client.D1qXypdn i18n.D3Gbp8tn index.BHS-ABOD markdown-processing.BqkdC0TQ math-katex.BMlcaHSk
    mermaid.CpNRA-E5 polyfills.BnDHDYRr query-devtools.eCLhNcV1 radix-ui.CFzgeTqm react-interactions.Ggqtj1A5
    react-vtree.Bv__m2K7 rolldown-runtime.Cyuzqnbw routing.Cb7G0LKm sandpack.CEJsOUxH security-ui.BjsCPful
    tanstack-vendor.BolsaK2r utilities.B8O80BWK validation.DV1yC6np vendor.BRKtqY5s virtualization.Cr3i2Ntx
""".split()
_STYLES = ("index.CdHFgm6U", "math-katex.uZ8_QngQ")
_BINARIES = {
    "/assets/apple-touch-icon-180x180.png": "image/png",
    "/assets/favicon-32x32.png": "image/png",
    "/assets/fonts/Inter-Bold.woff2": "font/woff2",
    "/assets/fonts/Inter-Regular.woff2": "font/woff2",
    "/assets/fonts/Inter-SemiBold.woff2": "font/woff2",
    "/assets/silence.mp3": "audio/mpeg",
    "/assets/logo.svg": "image/svg+xml",
}
_SCRIPT_TYPE = "application/javascript; charset=UTF-8"
_FOREVER = "public, max-age=172800, s-maxage=86400"
_NEVER = "no-store, no-cache, must-revalidate"
_FILE = re.compile(r"\.(?:js|css|map|png|jpe?g|svg|ico|woff2?|ttf|mp3|json|webmanifest|txt)$")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

INDEX = f"""<!DOCTYPE html>
<html lang="en-US">
  <head>
    <meta charset="utf-8" />
    <base href="/" />
    <meta name="theme-color" content="#171717" />
    <meta name="description" content="LibreChat - An open source chat application (stand-in)" />
    <title>LibreChat</title>
    <link rel="icon" type="image/png" sizes="32x32" href="assets/favicon-32x32.png" />
    <script type="module" crossorigin src="./assets/index.BHS-ABOD.js"></script>
{"".join(f'    <link rel="modulepreload" crossorigin href="./assets/{name}.js">' + chr(10) for name in _SCRIPTS)}
    <link rel="stylesheet" crossorigin href="./assets/index.CdHFgm6U.css">
    <link rel="manifest" href="./manifest.webmanifest" crossorigin="use-credentials">
    <script id="vite-plugin-pwa:register-sw" src="./registerSW.js"></script>
  </head>
  <body>
    <div id="root"><div id="loading-container"></div></div>
  </body>
</html>
""".encode()


@lru_cache(maxsize=1)
def _assets() -> dict[str, tuple[bytes, str, str]]:
    """Path to content, type and cache rule."""
    found = {f"/assets/{n}.js": (_stub(n), _SCRIPT_TYPE, _FOREVER) for n in _SCRIPTS}
    found |= {f"/assets/{n}.css": (_stub(n), "text/css; charset=UTF-8", _FOREVER) for n in _STYLES}
    found |= {path: (path.encode() * 40, kind, _FOREVER) for path, kind in _BINARIES.items()}
    found["/registerSW.js"] = (b"/* no service worker here */\n", _SCRIPT_TYPE, _FOREVER)
    found["/sw.js"] = (b"self.registration.unregister();\n", _SCRIPT_TYPE, _NEVER)
    manifest = b'{"name":"LibreChat","short_name":"LibreChat","start_url":"/","display":"standalone"}'
    found["/manifest.webmanifest"] = (manifest, "application/manifest+json", _NEVER)
    return found


def _stub(name: str) -> bytes:
    return f"/* {name} */\n".encode() * (1 if name.startswith("rolldown") else 120)


@lru_cache(maxsize=128)
def _zipped(content: bytes) -> bytes:
    return gzip.compress(content, 6, mtime=0)


async def page(call: Call) -> web.StreamResponse:
    """GET of anything else: an asset, 404 for a missing file, or the client's index.html."""
    path = call.request.raw_path.partition("?")[0]
    found = _assets().get(path)
    if found is not None:
        content, kind, cache = found
        return static_reply(call.request, content, kind, STARTED_AT, cache)
    if _FILE.search(path):
        return text_reply("Not Found", 404)
    return _index()


def _index() -> web.Response:
    headers = {
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
        "Expires": "0",
        "Vary": "x-librechat-enable-query-devtools, Accept-Encoding",
        "Content-Type": "text/html; charset=utf-8",
        "ETag": etag(INDEX),
    }
    return web.Response(body=INDEX, headers=headers)


def static_reply(
    request: web.Request, content: bytes, kind: str, changed_at: float, cache: str | None
) -> web.Response:
    """A file as express-static-gzip serves it: gzip variant, 304, one range."""
    headers = {
        "Cache-Control": cache or _FOREVER,
        "Accept-Ranges": "bytes",
        "Last-Modified": formatdate(changed_at, usegmt=True),
        "Content-Type": kind,
    }
    text = kind.startswith(("text/", "application/javascript"))
    if text:
        headers["Vary"] = "Accept-Encoding"
    if text and len(content) > 1024 and "gzip" in request.headers.get("Accept-Encoding", ""):
        content = _zipped(content)
        headers["Content-Encoding"] = "gzip"
    headers["ETag"] = f'W/"{len(content):x}-{int(changed_at * 1000):x}"'
    if _unchanged(request, headers["ETag"], changed_at):
        return web.Response(status=304, headers={k: v for k, v in headers.items() if k != "Content-Type"})
    return _ranged(request, content, headers)


def _unchanged(request: web.Request, tag: str, changed_at: float) -> bool:
    known = request.headers.get("If-None-Match")
    if known is not None:
        return tag in known or known == "*"
    since = request.headers.get("If-Modified-Since")
    try:
        return since is not None and int(changed_at) <= parsedate_to_datetime(since).timestamp()
    except ValueError:
        return False


def _ranged(request: web.Request, content: bytes, headers: dict[str, str]) -> web.Response:
    wanted = _RANGE.fullmatch(request.headers.get("Range", ""))
    if wanted is None or wanted[0] == "bytes=-":
        return web.Response(body=content, headers=headers)
    size = len(content)
    first, last = wanted[1], wanted[2]
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return web.Response(status=206, body=content[start : end + 1], headers=headers)
