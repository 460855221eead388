"""One run: the answer to one chat POST, from `created` to `final`, whoever listens (contract §4).

It owns the order of events, what is saved when, and what an abort leaves behind.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from geko_proxy.demo.librechat.accounts import Account
from geko_proxy.demo.librechat.chat import shapes
from geko_proxy.demo.librechat.chat.balance import charge, lack_of_credits
from geko_proxy.demo.librechat.chat.prompts import thread_prompt, words_of
from geko_proxy.demo.librechat.chat.provider import Delta, ModelCall, ProviderDied, ProviderError, Usage
from geko_proxy.demo.librechat.chat.scenes import Scene
from geko_proxy.demo.librechat.chat.shapes import ROOT, Speaker
from geko_proxy.demo.librechat.chat.streams import Stream, frame
from geko_proxy.demo.librechat.chat.titles import TitleCall
from geko_proxy.demo.librechat.express import Json, encode, nanoid, now_iso
from geko_proxy.demo.librechat.library.conversations import Conversation
from geko_proxy.demo.librechat.llm.memory import remember
from geko_proxy.demo.librechat.llm.turn import RealTurn
from geko_proxy.demo.librechat.settings import Endpoint

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.server import StandIn

_TITLE_GRACE_S = 0.02


@dataclass(slots=True)
class Turn:
    """What a chat POST asks for, checked. `problem` is what the stream will say instead of an answer.

    resolve: finds out who speaks, when that needs the lists of `models` that the account may call.
    """

    user: Account
    conversation_id: str
    body: Json
    speakers: list[tuple[Speaker, Endpoint]]
    problem: str | None = None
    models: dict[str, list[str]] = field(default_factory=dict)
    resolve: Callable[[], Awaitable[None]] | None = None

    @property
    def answers_again(self) -> bool:
        """Whether the user message exists already."""
        return bool(self.body.get("isRegenerate") or self.body.get("isContinued"))


class Run:
    """A running answer."""

    def __init__(self, lc: StandIn, turn: Turn) -> None:
        self.lc, self.turn, self.user = lc, turn, turn.user
        self.conversation_id = turn.conversation_id
        self.response_id = str(uuid.uuid4())
        if turn.body.get("isContinued") and turn.body.get("responseMessageId"):
            self.response_id = str(turn.body["responseMessageId"])
        self.created_at_ms = int(time.time() * 1000)
        self.stream = Stream(turn.conversation_id)
        self.task: asyncio.Task[None] | None = None
        self.aborted = False
        self.question: Json | None = None
        self.content: list[Json] = []
        self.steps: list[Json] = []
        self.usage_events: list[Json] = []
        self._conversation: Conversation | None = None
        self._usages: list[tuple[str | None, Usage]] = []
        self._title: TitleCall | None = None
        self._title_task: asyncio.Task[None] | None = None
        self._context: Json | None = None
        self._ended = False

    async def go(self) -> None:
        """Run to the end."""
        await asyncio.sleep(self.lc.settings.start_delay_s)
        if self.turn.resolve is not None:
            await self.turn.resolve()
        if self.turn.problem is not None:
            self._fail(self.turn.problem)
            return
        conversation, messages = self._begin()
        tokens = sum(m["tokenCount"] or 0 for m in messages)
        broke = lack_of_credits(self.user, self.turn.speakers[0][0].model, tokens)
        if broke is not None:
            self._fail(encode(broke).decode())
            return
        title = self._start_title(conversation)
        memory = self._start_memory(messages)
        contexts = [
            shapes.context_usage(self.response_id, speaker, tokens, len(messages))
            for speaker, _ in self.turn.speakers
        ]
        self._context = contexts[0]
        for context in contexts:
            self.publish({"event": "on_context_usage", "data": context})
        speaking = zip(self.turn.speakers, contexts, strict=True)
        await asyncio.gather(*(self._speak(messages, *who, context) for who, context in speaking))
        if title is not None:
            await asyncio.wait({title}, timeout=_TITLE_GRACE_S)
        if memory is not None:
            await asyncio.wait({memory}, timeout=self.lc.settings.memory_wait_s)
        self._finish(conversation, tokens)

    def abort(self) -> None:
        """Stop: the final goes out at once, the run's own last save follows (contract §4.4)."""
        self.aborted = True
        self.save_partial()
        self.lc.jobs.finished(self.stream, frame(self._aborted_final()))
        if self.task is not None:
            self.task.cancel()
        if self._title_task is not None and self.lc.settings.llm_url:
            self._title_task.cancel()  # controllers/agents/request.js, titleAbortController
        if self._conversation is not None:
            self.lc.spawn(self._late_save())

    def save_partial(self) -> None:
        """Save what there is as unfinished: on an abort, and when the last subscriber leaves."""
        if self._conversation is not None and self.content:
            self._store_answer(unfinished=True)

    def state(self) -> Json:
        """`resumeState` of status and sync."""
        speaker = self.turn.speakers[0][0] if self.turn.speakers else None
        state: Json = {"runSteps": self.steps, "aggregatedContent": self.content}
        if self.question is not None and speaker is not None:
            shown = ("messageId", "parentMessageId", "conversationId", "text")
            state["userMessage"] = {k: self.question[k] for k in shown}
            state["responseMessageId"] = self.response_id
            state |= {"conversationId": self.conversation_id, "sender": speaker.sender}
            state["model"] = speaker.shown_model
        title = self._title.event if self._title is not None else None
        optional = {"titleEvent": title, "contextUsage": self._context}
        state |= {k: v for k, v in optional.items() if v is not None}
        return state | ({"collectedUsage": self.usage_events} if self.usage_events else {})

    def _begin(self) -> tuple[Conversation, list[Json]]:
        body, speaker = self.turn.body, self.turn.speakers[0][0]
        began_at = now_iso()
        conversation = self.lc.conversations.open(self.user.id, self.conversation_id, speaker, body, began_at)
        self._conversation = conversation
        parent_id = body.get("parentMessageId") or ROOT
        known = conversation.message(body.get("overrideParentMessageId") or parent_id)
        if self.turn.answers_again and known is not None:
            fields = (
                "messageId",
                "parentMessageId",
                "sender",
                "text",
                "isCreatedByUser",
                "tokenCount",
                "files",
            )
            self.question = {k: known[k] for k in fields if k in known}
            self.question["conversationId"] = self.conversation_id
        else:
            self.question = self._new_question(parent_id)
            shown = {**self.question, "endpoint": speaker.endpoint, "model": None}
            conversation.save(self._stored(shown, began_at))
        if body.get("isContinued"):
            known_answer = conversation.message(self.response_id) or {}
            self.content = shapes.continued(known_answer.get("content") or [], body.get("editedContent"))
        self.publish({"created": True, "message": self.question, "streamId": self.conversation_id})
        return conversation, conversation.thread(self.question["messageId"])

    def _new_question(self, parent_id: str) -> Json:
        text = str(self.turn.body.get("text") or "")
        files = self.lc.files.attached(self.user.id, self.turn.body.get("files") or [])
        question: Json = {
            "messageId": str(uuid.uuid4()),
            "parentMessageId": parent_id,
            "conversationId": self.conversation_id,
            "sender": "User",
            "text": text,
            "isCreatedByUser": True,
            "tokenCount": shapes.question_tokens(text, files),
        }
        return question | ({"files": [shapes.file_shown(f) for f in files]} if files else {})

    def asked(self, speaker: Speaker, endpoint: Endpoint, prompts: list[Json]) -> ModelCall:
        """A call of the speaker's model."""
        return ModelCall(
            model=speaker.model,
            messages=prompts,
            purpose="chat",
            endpoint=endpoint.name,
            user_id=self.user.id,
            conversation_id=self.conversation_id,
            message_id=self.response_id,
            parent_id=str(self.question["messageId"]) if self.question else None,
            asks_usage=endpoint.asks_usage,
            max_tokens=self.turn.body.get("max_tokens"),
        )

    async def _speak(self, messages: list[Json], speaker: Speaker, endpoint: Endpoint, context: Json) -> None:
        try:
            if self.lc.settings.llm_url:
                await RealTurn(self, speaker, endpoint, context).play(messages)
            else:
                await self._play_scene(messages, speaker, endpoint, context)
        except (ProviderError, ProviderDied, ValueError) as error:
            text = f"An error occurred while processing the request: {error}"
            self.content.append({"type": "error", "error": text, **speaker.tags})

    async def _play_scene(
        self, messages: list[Json], speaker: Speaker, endpoint: Endpoint, context: Json
    ) -> None:
        scene = Scene(self, speaker, endpoint, context)
        call = self.asked(speaker, endpoint, await scene.play(thread_prompt(speaker, messages)))
        await self._answer(speaker, call)
        self.report(call, scene.vendor)

    async def _answer(self, speaker: Speaker, call: ModelCall) -> None:
        step: Json | None = None
        kind, thought = "", False
        async for piece in self.lc.provider.stream(call):
            thought = thought or piece.kind == "think"
            if step is None or piece.kind != kind:
                kind = piece.kind
                message_id = nanoid("msg_") if thought else f"chatcmpl-{uuid.uuid4().hex}"
                step = self.begin_part(speaker, kind, message_id)
            self.add(step, piece)

    def begin_part(self, speaker: Speaker, kind: str, message_id: str) -> Json:
        """Begin a part of text or thought; returns its step."""
        step = shapes.run_step(self.response_id, speaker, len(self.content), message_id)
        return self.open_step(step, {"type": kind, kind: "", **speaker.tags})

    def open_step(self, step: Json, part: Json) -> Json:
        """Begin a part of the answer."""
        self.content.append(part)
        self.steps.append(step)
        self.publish({"event": "on_run_step", "data": step}, also_replaced=True)
        return step

    def show_context(self, context: Json) -> None:
        """Announce a call."""
        self._context = context
        self.publish({"event": "on_context_usage", "data": context})

    def add(self, step: Json, piece: Delta) -> None:
        """A piece of the part that the step began."""
        self.content[step["index"]][piece.kind] += piece.text
        self.publish(shapes.delta(step["id"], piece.kind, piece.text), also_replaced=True)

    def report(self, call: ModelCall, vendor: str, kind: str | None = None) -> None:
        """Tell what a call has used, if the provider told; kind: LibreChat's usage_type."""
        if call.usage is None:
            return
        self._usages.append((kind, call.usage))
        charge(self.user, call.model, call.usage)
        event = shapes.token_usage(
            self.response_id, len(self._usages), call.model, call.usage, vendor=vendor, kind=kind
        )
        self.usage_events.append(event)
        self.publish({"event": "on_token_usage", "data": event})

    def _metadata(self) -> Json | None:
        """What is stored of all reports: the context as the last call of the answer itself found it."""
        primary = [usage for kind, usage in self._usages if kind is None]
        if not primary or self._context is None:
            return None
        return shapes.metadata(self._context, primary[-1], [usage for _, usage in self._usages])

    def _start_title(self, conversation: Conversation) -> asyncio.Task[None] | None:
        endpoint = self.turn.speakers[0][1]
        if not endpoint.titles or conversation.doc["isTemporary"] or len(conversation.messages) != 1:
            return None
        self._title = TitleCall(self.lc, self.user, endpoint, self.conversation_id)
        self._title_task = self.lc.spawn(self._make_title(conversation, self._title))
        return self._title_task

    def _start_memory(self, messages: list[Json]) -> asyncio.Task[None] | None:
        settings = self.lc.settings
        return self.lc.spawn(remember(self, messages)) if settings.llm_url and settings.memory else None

    async def _make_title(self, conversation: Conversation, title: TitleCall) -> None:
        assert self.question is not None
        await title.make(str(self.question["text"]), self.response_id, str(self.question["messageId"]))
        if title.event is not None:
            self.publish(title.event)
        if self._ended:
            self._keep_title(conversation)

    def _keep_title(self, conversation: Conversation) -> None:
        """Save the title, which LibreChat does only after a whole answer (contract §4.4)."""
        if self._title is not None and self._title.text is not None and not self.aborted:
            conversation.doc |= {"title": self._title.text, "updatedAt": now_iso()}

    def _finish(self, conversation: Conversation, tokens: int) -> None:
        self._ended = True
        answer = self._store_answer(unfinished=False)
        more: Json = {"isEdited": bool(self.turn.body.get("isContinued")), "promptTokens": tokens}
        metadata = self._metadata()
        if metadata is not None:
            more["metadata"] = metadata
        last = frame(shapes.final(conversation.doc, self.question, answer, more))
        if self.stream.run is self and not self.aborted:
            self.lc.jobs.finished(self.stream, last)
        self._keep_title(conversation)

    def _store_answer(self, *, unfinished: bool) -> Json:
        assert self._conversation is not None
        assert self.question is not None
        speaker = self.turn.speakers[0][0]
        shown: Json = {
            "messageId": self.response_id,
            "conversationId": self.conversation_id,
            "parentMessageId": self.question["messageId"],
            "isCreatedByUser": False,
            "model": speaker.shown_model,
            "sender": speaker.sender,
            "endpoint": speaker.endpoint,
            "text": "",
            "content": [dict(part) for part in self.content],
            "attachments": [],
            "tokenCount": self._token_count(),
        }
        metadata = self._metadata()
        if metadata is not None:
            shown["metadata"] = shapes.stored_metadata(metadata)
        stored = self._stored(shown, now_iso()) | {"unfinished": unfinished}
        self._conversation.save(stored)
        return stored

    def _token_count(self) -> int:
        """Usage, else the finished title call's count (the trap of contract §4.6), else an estimate."""
        seen = [usage for kind, usage in self._usages if kind in (None, "summarization")]
        if seen:
            return sum(usage.completion + usage.hidden for usage in seen)
        if self._title is not None and self._title.tokens is not None:
            return self._title.tokens
        return shapes.estimate(words_of(self.content))

    def _stored(self, shown: Json, created_at: str) -> Json:
        temporary = bool(self.turn.body.get("isTemporary"))
        return shapes.stored_message(shown, created_at, now_iso(), temporary=temporary)

    async def _late_save(self) -> None:
        await asyncio.sleep(self.lc.settings.late_save_s)
        self._store_answer(unfinished=False)

    def _aborted_final(self) -> Json:
        if self.question is None:
            return shapes.early_final()
        answer = {"messageId": self.response_id, "content": self.content}
        return shapes.aborted_final(self.question, answer, self.turn.speakers[0][0])

    def _fail(self, text: str) -> None:
        if self.stream.run is self and not self.aborted:
            self.lc.jobs.finished(self.stream, frame({"error": text}, "error"), failed=True)

    def publish(self, data: Json, *, also_replaced: bool = False) -> None:
        mine = self.stream.run is self or also_replaced
        if mine and not self.aborted and self.stream.last is None:
            self.stream.publish(frame(data))
