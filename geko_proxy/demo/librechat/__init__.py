"""A stand-in for LibreChat v0.8.7 that answers as recorded: for `make run` without a LibreChat and for tests."""

from geko_proxy.demo.librechat.faults import Fault, Received
from geko_proxy.demo.librechat.server import StandIn, main
from geko_proxy.demo.librechat.settings import Endpoint, Limit, Settings

__all__ = ["Endpoint", "Fault", "Limit", "Received", "Settings", "StandIn", "main"]
