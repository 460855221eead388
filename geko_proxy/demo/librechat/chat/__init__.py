"""Chat: the built-in provider, the runs, their streams and the routes of /api/agents/chat."""
