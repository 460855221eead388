"""Small collections per user: presets, tags, projects, prompts, memories, favorites, keys, speech settings."""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass, field

from aiohttp import web

from geko_proxy.demo.librechat.express import Json, json_reply, now_iso, object_id
from geko_proxy.demo.librechat.routes import Call, Guard, Route


@dataclass(slots=True)
class Shelf:
    """One user's things, keyed by what identifies each kind."""

    presets: dict[str, Json] = field(default_factory=dict)
    tags: dict[str, Json] = field(default_factory=dict)
    projects: dict[str, Json] = field(default_factory=dict)
    prompts: dict[str, Json] = field(default_factory=dict)
    memories: dict[str, Json] = field(default_factory=dict)
    keys: dict[str, str | None] = field(default_factory=dict)
    skills: Json = field(default_factory=dict)


class Shelves(defaultdict[str, Shelf]):
    """Everybody's shelf by user id."""

    def __init__(self) -> None:
        super().__init__(Shelf)


def _mine(call: Call) -> Shelf:
    return call.lc.shelves[call.user.id]


async def presets(call: Call) -> web.Response:
    """GET /api/presets"""
    return json_reply(list(_mine(call).presets.values()))


async def save_preset(call: Call) -> web.Response:
    """POST /api/presets"""
    preset_id = str(call.body.get("presetId") or uuid.uuid4())
    shown = {**call.body, "presetId": preset_id, "user": call.user.id}
    _mine(call).presets[preset_id] = shown
    return json_reply(shown, 201)


async def delete_preset(call: Call) -> web.Response:
    """POST /api/presets/delete: one, or all without an id"""
    gone = call.body.get("presetId")
    shelf = _mine(call)
    count = len(shelf.presets) if gone is None else int(gone in shelf.presets)
    shelf.presets = {} if gone is None else {k: v for k, v in shelf.presets.items() if k != gone}
    return json_reply({"acknowledged": True, "deletedCount": count}, 201)


async def tags(call: Call) -> web.Response:
    """GET /api/tags"""
    return json_reply(list(_mine(call).tags.values()))


async def save_tag(call: Call) -> web.Response:
    """POST /api/tags"""
    tag = str(call.body.get("tag"))
    shown = {"_id": object_id(), "tag": tag, "user": call.user.id, "count": 0, "position": 1}
    shown |= {"description": call.body.get("description"), "createdAt": now_iso()}
    return json_reply(_mine(call).tags.setdefault(tag, shown))


async def delete_tag(call: Call) -> web.Response:
    """DELETE /api/tags/:tag"""
    gone = _mine(call).tags.pop(call.params["tag"], None)
    return json_reply(gone) if gone else json_reply({"error": "Tag not found"}, 404)


async def tag_conversation(call: Call) -> web.Response:
    """PUT /api/tags/convo/:conversationId"""
    conversation = call.lc.conversations.get(call.user.id, call.params["conversationId"])
    if conversation is None:
        return json_reply({"error": "Conversation not found"}, 404)
    conversation.doc["tags"] = list(call.body.get("tags") or [])
    return json_reply(conversation.doc["tags"])


async def projects(call: Call) -> web.Response:
    """GET /api/projects"""
    return json_reply({"projects": list(_mine(call).projects.values()), "nextCursor": None})


async def save_project(call: Call) -> web.Response:
    """POST /api/projects"""
    shown = {"_id": object_id(), **call.body, "user": call.user.id, "createdAt": now_iso()}
    _mine(call).projects[shown["_id"]] = shown
    return json_reply(shown, 201)


async def delete_project(call: Call) -> web.Response:
    """DELETE /api/projects/:id"""
    gone = _mine(call).projects.pop(call.params["id"], None)
    return json_reply(
        {"message": "Project deleted"} if gone else {"error": "Project not found"}, 200 if gone else 404
    )


async def prompt_groups(call: Call) -> web.Response:
    """GET /api/prompts/groups"""
    found = list(_mine(call).prompts.values())
    return json_reply({"promptGroups": found, "has_more": False, "after": None})


async def all_prompts(call: Call) -> web.Response:
    """GET /api/prompts/all"""
    return json_reply(list(_mine(call).prompts.values()))


async def save_prompt(call: Call) -> web.Response:
    """POST /api/prompts"""
    group_id, prompt = object_id(), dict(call.body.get("prompt") or {})
    prompt |= {"_id": object_id(), "groupId": group_id, "author": call.user.id}
    group = {"_id": group_id, **(call.body.get("group") or {}), "author": call.user.id}
    group |= {"authorName": call.user.name, "productionId": prompt["_id"], "createdAt": now_iso()}
    _mine(call).prompts[group_id] = group
    return json_reply({"prompt": prompt, "group": group})


async def memories(call: Call) -> web.Response:
    """GET /api/memories"""
    found = list(_mine(call).memories.values())
    counts = {"totalTokens": 0, "tokenLimit": None, "charLimit": 10000, "usagePercentage": None}
    return json_reply({"memories": found, **counts})


async def save_memory(call: Call) -> web.Response:
    """POST /api/memories"""
    key = str(call.body.get("key"))
    shown = {"key": key, "value": call.body.get("value"), "updated_at": now_iso(), "tokenCount": 0}
    _mine(call).memories[key] = shown
    return json_reply({"created": True, "memory": shown}, 201)


async def delete_memory(call: Call) -> web.Response:
    """DELETE /api/memories/:key"""
    gone = _mine(call).memories.pop(call.params["key"], None)
    return json_reply({"success": True} if gone else {"error": "Memory not found."}, 200 if gone else 404)


async def favorites(call: Call) -> web.Response:
    """GET /api/user/settings/favorites"""
    return json_reply(call.user.favorites)


async def save_favorites(call: Call) -> web.Response:
    """POST /api/user/settings/favorites"""
    given = call.body.get("favorites")
    if not isinstance(given, list):
        return json_reply({"message": "Favorites must be an array"}, 400)
    call.user.favorites = given
    return json_reply(given)


async def skills(call: Call) -> web.Response:
    """GET and POST /api/user/settings/skills/active"""
    if call.request.method == "POST":
        _mine(call).skills = dict(call.body)
    return json_reply(_mine(call).skills)


async def keys(call: Call) -> web.Response:
    """GET /api/keys?name=…"""
    return json_reply({"expiresAt": _mine(call).keys.get(call.query.get("name", ""))})


async def save_key(call: Call) -> web.Response:
    """PUT /api/keys"""
    _mine(call).keys[str(call.body.get("name"))] = call.body.get("expiresAt")
    return web.Response(status=201)


async def speech(call: Call) -> web.Response:
    """GET /api/files/speech/config/get"""
    return json_reply({"sttExternal": False, "ttsExternal": False})


ROUTES = (
    Route("GET", "/api/presets", presets),
    Route("POST", "/api/presets", save_preset),
    Route("POST", "/api/presets/delete", delete_preset),
    Route("GET", "/api/tags", tags),
    Route("POST", "/api/tags", save_tag),
    Route("DELETE", "/api/tags/:tag", delete_tag),
    Route("PUT", "/api/tags/convo/:conversationId", tag_conversation),
    Route("GET", "/api/projects", projects),
    Route("POST", "/api/projects", save_project),
    Route("DELETE", "/api/projects/:id", delete_project),
    Route("GET", "/api/prompts/groups", prompt_groups),
    Route("GET", "/api/prompts/all", all_prompts),
    Route("POST", "/api/prompts", save_prompt),
    Route("GET", "/api/memories", memories),
    Route("POST", "/api/memories", save_memory),
    Route("DELETE", "/api/memories/:key", delete_memory),
    Route("GET", "/api/user/settings/favorites", favorites),
    Route("POST", "/api/user/settings/favorites", save_favorites),
    Route("GET", "/api/user/settings/skills/active", skills),
    Route("POST", "/api/user/settings/skills/active", skills),
    Route("GET", "/api/keys", keys),
    Route("PUT", "/api/keys", save_key),
    Route("GET", "/api/files/speech/config/get", speech, Guard.BROWSER),
)
