"""The LLM side: every call of LibreChat to its model providers passes here, metered and limited."""
