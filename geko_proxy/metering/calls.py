"""The model calls of one turn: which text belongs to which call, and which of them a usage report closes.

A report names no agent (contract §4.10: parallel answers share one runId), so it is matched by model and size; a
wrong match heals itself when its call goes on, and sums stay right whatever the match: one report closes one call.
"""

from __future__ import annotations

import re
from typing import Any, Final

from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.tokens import TokenCounter

# LibreChat's encodeEphemeralAgentId: "<endpoint>__<model>___<sender>____<index>", ":" written as "__".
EPHEMERAL_AGENT: Final = re.compile(r"(?P<base>.+?)(?:___[^_].*)?")
MAX_UNSURE: Final = 8192  # text kept uncounted, in bytes at most
SIDE_KINDS: Final = frozenset({"subagent", "summarization"})


class Call:
    """One model call: `prompt` tokens estimated, `tokens` of text counted so far, `uncounted` text after that.

    agent: LibreChat's agent id, or the run of a sub-agent. kind: as in Charge. closed_by: the report that covers it.
    """

    __slots__ = ("_missed", "_stream", "agent", "closed_by", "kind", "prompt", "tokens", "uncounted")

    def __init__(self, counter: TokenCounter, agent: str, prompt: int, kind: str = "chat") -> None:
        self._stream = counter.stream()
        self._missed = 0
        self.agent = agent
        self.prompt = prompt
        self.kind = kind
        self.tokens = 0
        self.uncounted: list[str] = []
        self.closed_by: Charge | None = None

    def count(self) -> int:
        """Counts what is uncounted; returns by how many tokens the call has grown."""
        before, uncounted = self.tokens, self.uncounted
        self.tokens = tokens = self._missed + self._stream.add("".join(uncounted))
        uncounted.clear()
        return tokens - before

    def total(self) -> int:
        """The exact tokens of the call's text, all of which has been counted."""
        return self._missed + self._stream.total()

    def add_missed(self, tokens: int) -> None:
        """Adds text that was streamed while nobody read."""
        self._missed += tokens
        self.tokens += tokens


class Calls:
    """The calls of a turn. `pending`: those without a report, oldest first; `has_text`: any delta was seen.

    known: tokens of the pending calls as far as they are counted; unsure: bytes of text that are not.

    Text is only kept when it comes and counted when a number is wanted: counting many deltas in one go costs a
    tenth. `at_most` is what the pending calls cannot exceed, known without counting.
    """

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self.pending: list[Call] = []
        self.has_text = False
        self.known = 0
        self.unsure = 0
        self._last: dict[tuple[str, str], Call] = {}
        self._agent = ""
        self._agent_of_step: dict[str, str] = {}
        self._call_of_step: dict[Any, Call] = {}

    @property
    def at_most(self) -> int:
        """An upper bound of `estimate`: a token has at least one byte."""
        return self.known + self.unsure

    @property
    def estimate(self) -> int:
        """The tokens of the pending calls, prompts and text."""
        self.count()
        return self.known

    @property
    def prompts(self) -> int:
        """The tokens of the pending calls' prompts, which `estimate` holds too."""
        return sum(call.prompt for call in self.pending)

    def count(self) -> None:
        """Counts the text that has come since the last time."""
        if self.unsure:
            for call in self.pending:
                if call.uncounted:
                    self.known += call.count()
            self.unsure = 0

    def blank(self) -> Call:
        """A call of which nothing is known; it is not kept."""
        return Call(self._counter, self._agent, 0)

    def open(self, agent: str, prompt: int) -> None:
        """A call begins. One of the same agent that has made no text did not happen: it was announced again."""
        self.count()
        before = self._last.get(("chat", agent))
        if before is not None and before.closed_by is None and not before.tokens:
            self._drop(before)
        self._agent = agent
        self._start(agent, prompt, "chat")

    def name_step(self, step: Any, agent: str) -> None:
        """Says which agent a step belongs to; "" for the one that called last."""
        if type(step) is str:
            self._agent_of_step[step] = agent or self._agent

    def add_text(self, step: Any, text: str) -> None:
        """Text of a step's call."""
        call = self._call_of_step.get(step) if type(step) is str else None
        if call is None or call.closed_by is not None:
            call = self._find(step, call)
            if call is None:
                return
        self._add(call, text)

    def add_late_text(self, step: Any, text: str) -> None:
        """Text that may come after its call's report (arguments that were not streamed): dropped then."""
        agent = self._agent_of_step.get(step, self._agent) if type(step) is str else self._agent
        call = self._last.get(("chat", agent))
        if call is not None and call.closed_by is None:
            self._add(call, text)

    def add_side_text(self, kind: str, run: str, text: str) -> None:
        """Text of a sub-agent's or a summary's call. Those announce no prompt.

        A summary reads what has just been announced and turned out to be too long; its agent then announces anew.
        """
        call = self._last.get((kind, run))
        if call is None or call.closed_by is not None:
            prompt = self._unanswered() if kind == "summarization" else 0
            call = self._start(run, prompt, kind)
        self._add(call, text)

    def add_missed(self, tokens: int) -> None:
        """Tokens of text that were streamed while nobody read: part of the newest call."""
        if tokens > 0:
            call = self.pending[-1] if self.pending else self._start(self._agent, 0, "chat")
            call.add_missed(tokens)
            self.known += tokens
            self.has_text = True

    def cover(self, charge: Charge, calls: list[Call]) -> None:
        """A report that says itself which calls it is about."""
        self.count()
        for call in calls:
            self._close(call, charge)

    def report(self, charge: Charge) -> None:
        """A provider's report closes the call that it fits best."""
        self.count()
        call = self._match(charge, self.pending)
        if call is not None:
            self._close(call, charge)

    def _add(self, call: Call, text: str) -> None:
        call.uncounted.append(text)
        self.has_text = True
        self.unsure = unsure = self.unsure + (
            len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
        )
        if unsure > MAX_UNSURE:
            self.count()

    def _unanswered(self) -> int:
        """The prompt of the call that was announced last, if it has made no text."""
        self.count()
        call = self._last.get(("chat", self._agent))
        return call.prompt if call is not None and call.closed_by is None and not call.tokens else 0

    def _start(self, agent: str, prompt: int, kind: str) -> Call:
        call = Call(self._counter, agent, prompt, kind)
        self.pending.append(call)
        self._last[kind, agent] = call
        self.known += prompt
        return call

    def _drop(self, call: Call) -> None:
        self.count()
        self.pending.remove(call)
        self.known -= call.prompt + call.tokens

    def _close(self, call: Call, charge: Charge) -> None:
        self._drop(call)
        call.closed_by = charge

    def _find(self, step: Any, known: Call | None) -> Call | None:
        """The call that a delta belongs to; None if a report covers it already."""
        named = type(step) is str
        agent = self._agent_of_step.get(step, self._agent) if named else self._agent
        call = known or self._last.get(("chat", agent))
        if call is None:
            call = self._start(agent, 0, "chat")
        elif call.closed_by is not None and not self._reopen(call):
            if known is not None:
                return None
            call = self._start(agent, 0, "chat")
        if named:
            self._call_of_step[step] = call
        return call

    def _reopen(self, call: Call) -> bool:
        """Reports come after a call's last delta: if it goes on, its report was that of a parallel call."""
        self.count()
        charge = call.closed_by
        others = [other for other in self.pending if other.kind == call.kind]
        parallel = [other for other in others if other.agent != call.agent]
        # an agent's own earlier call can be meant too: its report may have been taken for another agent's
        other = self._match(charge, parallel or others) if charge is not None else None
        if charge is None or other is None:
            return False
        self._close(other, charge)
        call.closed_by = None
        self.pending.append(call)
        self.known += call.prompt + call.tokens
        return True

    def _match(self, charge: Charge, calls: list[Call]) -> Call | None:
        """The call whose model and numbers fit a report best; the oldest of equals."""
        if charge.kind in SIDE_KINDS:
            calls = [call for call in calls if call.kind == charge.kind]
        elif charge.kind == "sequential":  # a hidden agent: it shows no prompt, at most arguments of tools
            calls = [call for call in calls if call.kind == "chat" and not call.prompt]
        else:
            calls = [call for call in calls if call.kind == "chat"]
        return min(calls, key=lambda call: misfit(call, charge), default=None)


def misfit(call: Call, charge: Charge) -> tuple[bool, int]:
    """How badly a report fits a call; smaller is better."""
    model = model_of_agent(call.agent)
    distance = abs(call.prompt - charge.input_tokens) + abs(call.tokens - charge.output_tokens)
    return bool(model and charge.model and model != charge.model), distance


def model_of_agent(agent: str) -> str:
    """The model in the id of an ephemeral agent ("Mock__gpt-4o___Mock" → "gpt-4o"); "" for a stored agent."""
    if agent.startswith("agent_"):
        return ""
    match = EPHEMERAL_AGENT.fullmatch(agent)
    base = match["base"] if match else ""
    return base.partition("__")[2].replace("__", ":")
