"""One model call on its way: what is asked, for whom, and who answers. Kept in `exchange.state`."""

from __future__ import annotations

from dataclasses import dataclass

from geko_proxy.exchange import Exchange
from geko_proxy.llm.wire.base import ModelCall
from geko_proxy.metering.call_leases import CallOrigin


@dataclass(slots=True)
class LlmCall:
    """A call. shape: its API's view of it; provider: as asked for in the path.

    answered: provider and model that gave the reply, as workspaces name them; None before there is one. is_form: the
    body is a form with a file, not JSON. was_left: the caller left while a provider had the call and had sent nothing.
    """

    shape: ModelCall
    origin: CallOrigin
    provider: str
    answered: tuple[str, str] | None = None
    is_form: bool = False
    was_left: bool = False

    def note_left(self) -> None:
        """Set `was_left`."""
        self.was_left = True


def model_call_of(exchange: Exchange) -> LlmCall | None:
    """The call of an exchange of the LLM side; None for any other, and for a list of models."""
    return exchange.state.get(LlmCall)
