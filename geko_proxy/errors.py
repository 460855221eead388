"""The few exceptions that cross module borders. Everything else stays in the module that raises it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geko_proxy.sse import SseEvent


class GekoError(Exception):
    """Base of all errors that GEKO raises on purpose."""


class ConfigError(GekoError):
    """Settings that can't be used; carries every problem found, not only the first."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Refused(GekoError):
    """A request that GEKO answers itself with an error.

    status: HTTP status; code: stable machine-readable name (snake_case); message: one sentence for people.
    librechat: JSON members for the error bubble of LibreChat's own client (contract §7.3), where `message`
    shown as free text is not the best choice. retry_after_s: value of Retry-After in seconds.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        librechat: Mapping[str, Any] | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.librechat = librechat
        self.details = details
        self.retry_after_s = retry_after_s
        self.headers = headers


class UpstreamError(GekoError):
    """LibreChat (or a model provider) can't be reached, broke off, or does not speak HTTP. Becomes 502 (504: timeout).

    sent: False when it certainly did not get the request, so that sending it again can't do anything twice.
    """

    sent = True


class UpstreamUnreachable(UpstreamError):
    """No connection to LibreChat could be made, or it was lost before the reply's head. Becomes 502."""


class UpstreamTimeout(UpstreamError):
    """LibreChat did not answer in time. Becomes 504."""


class UpstreamBusy(UpstreamError):
    """All connections to LibreChat stayed in use for the whole waiting time. Becomes 503."""


class UpstreamLimited(UpstreamError):
    """LibreChat's own limits or ban stop GEKO's calls. Becomes 503 with Retry-After: it is not the client's doing."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class FilterError(GekoError):
    """A filter with failure policy "closed" failed; carries the filter's name for the log and metrics."""

    def __init__(self, filter_name: str, hook: str) -> None:
        super().__init__(f"filter {filter_name} failed in {hook}")
        self.filter_name = filter_name
        self.hook = hook


class StoreError(GekoError):
    """The database could not do what was asked of it. Becomes 503."""


class EndStream(Exception):
    """Raised by an event hook: send `last`, then end the stream; the relay asks LibreChat to abort.

    notice: for a chat answer, a sentence that ends the partial answer and is stored with it (contract §4.8).
    code: the same for programs, snake_case; it becomes the finishReason of /v1/chat/send.
    """

    def __init__(
        self, last: Sequence[SseEvent] = (), notice: str | None = None, code: str = "ended_by_filter"
    ) -> None:
        super().__init__(notice or "stream ended by a filter")
        self.last = tuple(last)
        self.notice = notice
        self.code = code
