"""Uploaded files: the store, the routes of /api/files, and /images (contract §1.5, §2.6)."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass
from urllib.parse import quote, unquote

from aiohttp import web
from aiohttp.multipart import BodyPartReader

from geko_proxy.demo.librechat import tokens
from geko_proxy.demo.librechat.accounts import Account
from geko_proxy.demo.librechat.express import (
    JSON_TYPE,
    Json,
    json_reply,
    now_iso,
    object_id,
    streamed,
    text_reply,
)
from geko_proxy.demo.librechat.limits import UPLOAD_TEXT
from geko_proxy.demo.librechat.pages import static_reply
from geko_proxy.demo.librechat.routes import Call, Guard, Route

_AGENT_AVATAR = re.compile(r"/images/[0-9a-fA-F]{24}/agent-[^/]+")


@dataclass(slots=True)
class StoredFile:
    """One upload."""

    doc: Json
    data: bytes
    stored_at: float


class Files:
    """All uploads by file id."""

    def __init__(self) -> None:
        self._by_id: dict[str, StoredFile] = {}

    def add(self, doc: Json, data: bytes) -> None:
        """Keep an upload."""
        self._by_id[doc["file_id"]] = StoredFile(doc, data, time.time())

    def get(self, file_id: str) -> StoredFile | None:
        """Whoever owns it."""
        return self._by_id.get(file_id)

    def of(self, user_id: str) -> list[StoredFile]:
        """A user's uploads, the newest first."""
        return [f for f in reversed(self._by_id.values()) if f.doc["user"] == user_id]

    def attached(self, user_id: str, given: list[object]) -> list[Json]:
        """The documents behind a chat POST's `files`; foreign and unknown ones are left out."""
        found = [self._by_id.get(str(f.get("file_id"))) for f in given if isinstance(f, dict)]
        return [f.doc for f in found if f is not None and f.doc["user"] == user_id]

    def at(self, filepath: str) -> StoredFile | None:
        """The upload served at a path."""
        return next((f for f in self._by_id.values() if f.doc["filepath"] == filepath), None)

    def delete(self, file_id: str) -> None:
        """Forget an upload."""
        self._by_id.pop(file_id, None)


async def upload(call: Call) -> web.Response:
    """POST /api/files"""
    return await _upload(call, image=False)


async def upload_image(call: Call) -> web.Response:
    """POST /api/files/images"""
    return await _upload(call, image=True)


async def _upload(call: Call, *, image: bool) -> web.Response:
    passes, headers = call.lc.limiters.upload.count(call.user.id)
    if not passes:
        return json_reply({"message": UPLOAD_TEXT}, 429, headers)
    fields, part = await _multipart(call.request)
    if part is None:
        return json_reply({"message": "No file provided"}, 400, headers)
    name, content_type, data = part
    doc = _document(call.user, fields, name, content_type, data, image=image)
    call.lc.files.add({k: v for k, v in doc.items() if k != "text"}, data)
    said = "File" if image else "Agent file"
    return json_reply({"message": f"{said} uploaded and processed successfully", **doc}, 200, headers)


async def _multipart(request: web.Request) -> tuple[dict[str, str], tuple[str, str, bytes] | None]:
    fields: dict[str, str] = {}
    found: tuple[str, str, bytes] | None = None
    if not request.content_type.startswith("multipart/"):
        return fields, None
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            continue
        data = bytes(await part.read())
        if part.filename is None:
            fields[part.name or ""] = data.decode()
        elif part.name == "file":
            content_type = part.headers.get("Content-Type", "application/octet-stream")
            found = (unquote(part.filename), content_type, data)
    return fields, found


def _document(
    account: Account, fields: dict[str, str], name: str, content_type: str, data: bytes, *, image: bool
) -> Json:
    file_id, now = str(uuid.uuid4()), now_iso()
    doc: Json = {"_id": object_id(), "file_id": file_id, "updatedAt": now, "context": "message_attachment"}
    doc |= {"filename": name, "type": content_type, "bytes": len(data), "user": account.id}
    doc |= {"temp_file_id": fields.get("file_id"), "source": "local"}
    if image:
        doc |= {"height": int(fields.get("height", 0)), "width": int(fields.get("width", 0))}
        doc["filepath"] = f"/images/{account.id}/{file_id}__{quote(name)}"
    elif fields.get("tool_resource") == "context":
        doc |= {"source": "text", "filepath": f"src/uploads/temp/{account.id}/{name}"}
        doc["text"] = data.decode(errors="replace")
    else:
        doc["filepath"] = f"/uploads/{account.id}/{file_id}__{name}"
    return doc | {"__v": 0, "createdAt": now, "object": "file", "usage": 0}


async def listed(call: Call) -> web.Response:
    """GET /api/files"""
    return json_reply([f.doc for f in call.lc.files.of(call.user.id)])


async def config(call: Call) -> web.Response:
    """GET /api/files/config: JSON by its type, empty by its body (recorded)."""
    return streamed("", JSON_TYPE)


async def agent_files(call: Call) -> web.Response:
    """GET /api/files/agent/:id"""
    return json_reply([])


async def delete(call: Call) -> web.Response:
    """DELETE /api/files with a JSON body"""
    given = [str(f.get("file_id")) for f in call.body.get("files") or []]
    mine = {f.doc["file_id"] for f in call.lc.files.of(call.user.id)}
    if not given:
        return web.Response(status=204)
    if not set(given) <= mine:
        unknown = [file_id for file_id in given if file_id not in mine]
        text = "You can only delete files you have access to"
        return json_reply({"message": text, "unauthorizedFiles": unknown}, 403)
    for file_id in given:
        call.lc.files.delete(file_id)
    return json_reply({"message": "Files deleted successfully"})


async def download(call: Call) -> web.Response:
    """GET /api/files/download/:userId/:fileId: access by owner, whatever the URL's user (contract §1.5)."""
    found = call.lc.files.get(call.params["fileId"])
    if found is None:
        return json_reply({"error": "Not Found", "message": "File not found"}, 404)
    if found.doc["user"] != call.user.id:
        text = "You do not have permission to access this file"
        return json_reply({"error": "Forbidden", "message": text}, 403)
    headers = {
        "Content-Disposition": f'attachment; filename="{found.doc["filename"]}"',
        "Content-Type": "application/octet-stream",
        "X-File-Metadata": "{}",
    }
    return web.Response(body=found.data, headers=headers)


async def image(call: Call) -> web.StreamResponse:
    """GET /images/:userId/:file: public, or by refresh cookie with secureImageLinks (contract §2.6)."""
    path = call.request.raw_path.partition("?")[0]
    if call.lc.settings.secure_image_links:
        refused = _image_refusal(call, path)
        if refused is not None:
            return refused
    found = call.lc.files.at(path)
    if found is None:
        return text_reply("Not Found", 404)
    return static_reply(call.request, found.data, found.doc["type"], found.stored_at, None)


def _image_refusal(call: Call, path: str) -> web.Response | None:
    cookie = call.request.cookies.get("refreshToken")
    if not cookie:
        return text_reply("Unauthorized", 401)
    try:
        owner = call.lc.accounts.cookie_user(cookie)
    except tokens.BadToken:
        return text_reply("Access Denied", 403)
    if call.params["userId"] == owner or _AGENT_AVATAR.fullmatch(path):
        return None
    return text_reply("Access Denied", 403)


ROUTES = (
    Route("GET", "/api/files", listed, Guard.BROWSER),
    Route("GET", "/api/files/config", config, Guard.BROWSER),
    Route("GET", "/api/files/agent/:id", agent_files, Guard.BROWSER),
    Route("POST", "/api/files", upload, Guard.BROWSER),
    Route("POST", "/api/files/images", upload_image, Guard.BROWSER),
    Route("DELETE", "/api/files", delete, Guard.BROWSER),
    Route("GET", "/api/files/download/:userId/:fileId", download, Guard.BROWSER),
    Route("GET", "/images/:userId/:file", image, Guard.OPEN),
)
