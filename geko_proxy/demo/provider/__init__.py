"""A mock model provider that counts what it served: run it as a module, or as `MockProvider` in tests."""

from geko_proxy.demo.provider.books import Books, Entry, Usage
from geko_proxy.demo.provider.server import MockProvider, main

__all__ = ["Books", "Entry", "MockProvider", "Usage", "main"]
