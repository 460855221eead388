"""What is known of a call while it goes through targets, deployments and attempts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from geko_proxy.errors import Refused
from geko_proxy.llm.deployments import Call, Deployment
from geko_proxy.llm.providers import Provider


@dataclass(slots=True)
class Run:
    """One call of LibreChat on its way through targets and attempts. Times as of the pool's clock.

    on_left: called when the caller leaves while a provider has the call.
    """

    call: Call
    body_for: Callable[[str], bytes]
    last_start: float  # no attempt begins later
    on_left: Callable[[], None]
    attempts: int = 0
    is_out: bool = False  # a provider has it
    bodies: dict[str, bytes] = field(default_factory=dict)

    def note_sent(self) -> None:
        """The call goes out to a provider."""
        self.is_out = True

    def body(self, name: str) -> bytes | None:
        """The body with the model's name at the provider."""
        if self.call.method in ("GET", "DELETE"):
            return None
        if name not in self.bodies:
            self.bodies = {name: self.body_for(name)}
        return self.bodies[name]


@dataclass(slots=True)
class Tries:
    """What has been tried of one target."""

    provider: Provider
    model: str
    serving: list[Deployment]
    patience_s: float  # for what a provider asks to wait
    queue_until: float  # as of the pool's clock
    failed: list[Deployment] = field(default_factory=list)
    failures: int = 0
    limits: int = 0
    wait_s: float = 0.0  # that the last failure asked for
    refused: Refused | None = None  # as the last failure is told


class Exhausted(Exception):
    """This target can't answer. final: nor may any other be tried."""

    def __init__(self, refused: Refused, *, final: bool = False) -> None:
        super().__init__(refused.code)
        self.refused = refused
        self.final = final
