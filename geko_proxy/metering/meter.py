"""The meter of one turn: a state machine without I/O that reads every event once and knows what the turn costs.

Provider reports count as they are; a model call without one counts as its prompt estimate plus its streamed text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from geko_proxy.metering.calls import Call, Calls, model_of_agent
from geko_proxy.metering.ledger import Charge, Source
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.metering.usage_events import (
    CONTEXT_USAGE,
    MESSAGE_DELTA,
    REASONING_DELTA,
    RUN_STEP,
    RUN_STEP_DELTA,
    SUBAGENT_UPDATE,
    SUMMARIZE_DELTA,
    TOKEN_USAGE,
    charge_of,
    content_text,
    delta_text,
    dicts_in,
    name_of,
    part_text,
    prompt_of,
    run_step_delta_text,
    run_step_text,
    stored_charge,
    summarize_delta_text,
    text_of,
    tokens_of,
)

# For reports without a seq (before LibreChat had it): numbered by arrival, above any real one.
FIRST_OWN_SEQ: Final = 1_000_000_000


class TurnMeter:
    """Meters one turn.

    counter: the tokenizer. model: what the turn was started with; names estimates of calls whose agent does not
    tell its model.
    """

    def __init__(self, counter: TokenCounter, model: str = "") -> None:
        self._counter = counter
        self._model = model
        self._calls = Calls(counter)
        self._charges: dict[tuple[str, int], Charge] = {}
        self._reported = 0
        self._run_id = ""
        self._context: dict[str, Any] = {}
        self._handlers: dict[Any, Callable[[dict[str, Any]], None]] = {
            MESSAGE_DELTA: self._on_delta,
            REASONING_DELTA: self._on_delta,
            RUN_STEP: self._on_run_step,
            RUN_STEP_DELTA: self._on_run_step_delta,
            CONTEXT_USAGE: self._on_context_usage,
            TOKEN_USAGE: self._on_token_usage,
            SUBAGENT_UPDATE: self._on_subagent_update,
            SUMMARIZE_DELTA: self._on_summarize_delta,
        }

    @property
    def consumed(self) -> int:
        """Tokens of the turn so far: reported calls, and the estimates of those that are not (yet) reported.

        It can fall a little when a report replaces an estimate.
        """
        return self._reported + self._calls.estimate

    @property
    def at_most(self) -> int:
        """An upper bound of `consumed` that is known without counting: cheap to ask at every event."""
        calls = self._calls
        return self._reported + calls.known + calls.unsure

    @property
    def pending(self) -> tuple[int, int]:
        """Tokens of calls that are not (yet) reported: of their prompts, and of the text that they made."""
        prompts = self._calls.prompts
        return prompts, self._calls.estimate - prompts

    @property
    def charges(self) -> list[Charge]:
        """What providers have reported so far, each call once."""
        return list(self._charges.values())

    def on_text(self, step: str, text: str) -> None:
        """Take the text of an on_message_delta or on_reasoning_delta, the short way; step: its id."""
        if text:
            self._calls.add_text(step, text)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take the next event of the turn's stream, decoded; events that say nothing about usage are passed over.

        A resume's `sync` event is understood too: it brings what was missed while nobody read.
        """
        name = event.get("event")
        if type(name) is str:
            handler = self._handlers.get(name)
            if handler is not None:
                data = event.get("data")
                if type(data) is dict:
                    handler(data)
        elif event.get("sync"):
            self._on_sync(event)

    def on_sum(self, data: dict[str, Any], *, least_prompt: int = 0) -> None:
        """Take one report of all calls, as data of an on_token_usage.

        least_prompt: an estimate that the reported prompt is raised to, where the report is known to leave out some.
        """
        charge = self._book(data)
        if charge is None:
            return
        missing = least_prompt - charge.input_tokens
        if missing > 0:
            self._reported += missing
            raised = replace(charge, input_tokens=least_prompt, estimated=True)
            self._charges[charge.run_id, charge.seq] = raised
        self._calls.cover(charge, list(self._calls.pending))

    def on_last(self, data: dict[str, Any]) -> None:
        """Take a report of the newest call alone; those before it stay estimated."""
        charge = self._book(data)
        if charge is not None:
            self._calls.cover(charge, [call for call in self._calls.pending if call.kind == "chat"][-1:])

    def finish(self, final: Mapping[str, Any] | None) -> list[Charge]:
        """The charges of the turn; changes nothing, so it may be asked again.

        final: the stream's last event (`final`, also an aborted one), or None if none came. Calls that were not
        reported get an estimated charge each: the open one of a turn that was cut, or all of them if the provider
        reports nothing (contract §4.7 rules 4 and 5; unlike rule 5 every call of a tool loop pays for its own
        prompt, as providers count). A call that failed before its first word costs nothing: no provider bills it.
        An answer that was over before anybody could listen is charged what LibreChat stored of its reports.
        """
        reply = final.get("responseMessage") if final else None
        reply = reply if isinstance(reply, dict) else {}
        parts = dicts_in(reply.get("content"))
        failed = any(part.get("type") == "error" for part in parts) and not (final or {}).get("aborted")
        self._calls.count()
        costs = [
            (call, call.prompt, call.total()) for call in self._calls.pending if call.tokens or not failed
        ]
        if not self._charges:
            stored = stored_charge(reply, self._model) if not self._calls.pending else None
            if stored is not None:
                return [stored]
            costs = self._at_least(costs, reply, parts, failed=failed)
        estimates = [self._estimate(-1 - n, *cost) for n, cost in enumerate(costs) if cost[1] + cost[2]]
        return [*self._charges.values(), *estimates]

    def _at_least(
        self, costs: list[tuple[Call, int, int]], reply: Mapping[str, Any], parts: Any, *, failed: bool
    ) -> list[tuple[Call, int, int]]:
        """Raises the estimates to what the final shows: its promptTokens, and its content if no delta was seen."""
        unseen = 0
        if not self._calls.has_text:
            unseen = sum(self._counter.count(part_text(part)) for part in parts)
        if not costs:
            if failed and not unseen:
                return []
            costs = [(self._calls.blank(), 0, 0)]
        call, prompt, tokens = costs[0]
        missing = tokens_of(reply.get("promptTokens")) - sum(cost[1] for cost in costs)
        return [(call, prompt + max(0, missing), tokens + unseen), *costs[1:]]

    def _estimate(self, seq: int, call: Call, prompt: int, tokens: int) -> Charge:
        return Charge(
            run_id=self._run_id,
            seq=seq,
            kind=call.kind,
            model=model_of_agent(call.agent) or self._model,
            provider="",
            input_tokens=prompt,
            output_tokens=tokens,
            estimated=True,
            source=Source.ESTIMATE,
        )

    def _on_delta(self, data: dict[str, Any]) -> None:
        text = delta_text(data)
        if text:
            self._calls.add_text(data.get("id"), text)

    def _on_run_step_delta(self, data: dict[str, Any]) -> None:
        text = run_step_delta_text(data)
        if text:
            self._calls.add_text(data.get("id"), text)

    def _on_run_step(self, data: dict[str, Any]) -> None:
        self._calls.name_step(data.get("id"), name_of(data.get("agentId")))
        text = run_step_text(data)
        if text:
            self._calls.add_late_text(data.get("id"), text)

    def _on_context_usage(self, data: dict[str, Any]) -> None:
        self._context = data
        self._run_id = name_of(data.get("runId")) or self._run_id
        self._calls.open(name_of(data.get("agentId")), prompt_of(data))

    def _on_subagent_update(self, data: dict[str, Any]) -> None:
        text = text_of({"event": SUBAGENT_UPDATE, "data": data})
        if text:
            self._calls.add_side_text("subagent", name_of(data.get("subagentRunId")), text)

    def _on_summarize_delta(self, data: dict[str, Any]) -> None:
        text = summarize_delta_text(data)
        if text:
            self._calls.add_side_text("summarization", name_of(data.get("id")), text)

    def _on_token_usage(self, data: dict[str, Any]) -> None:
        charge = self._book(data)
        if charge is not None:
            self._calls.report(charge)

    def _book(self, data: dict[str, Any]) -> Charge | None:
        """The charge of a report, or None if this call has been reported before."""
        charge = charge_of(data)
        key = (charge.run_id, charge.seq or FIRST_OWN_SEQ + len(self._charges))
        if key in self._charges:
            return None
        if charge.seq != key[1]:
            charge = replace(charge, seq=key[1])
        self._charges[key] = charge
        self._reported += charge.tokens
        return charge

    def _on_sync(self, event: Mapping[str, Any]) -> None:
        state = event.get("resumeState")
        if isinstance(state, dict):
            self._on_resume_state(state)
        for pending in dicts_in(event.get("pendingEvents")):
            self.on_event(pending)

    def _on_resume_state(self, state: dict[str, Any]) -> None:
        for usage in dicts_in(state.get("collectedUsage")):
            self._on_token_usage(usage)
        context = state.get("contextUsage")
        if isinstance(context, dict) and context != self._context:
            self._on_context_usage(context)
        covered = sum(charge.output_tokens for charge in self._charges.values())
        self._calls.count()
        covered += sum(call.tokens for call in self._calls.pending)
        self._calls.add_missed(self._counter.count(content_text(state.get("aggregatedContent"))) - covered)
