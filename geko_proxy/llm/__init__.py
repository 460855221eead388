"""The LLM side: the listener through which LibreChat calls its model providers (docs/llm.md)."""
