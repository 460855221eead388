"""What users keep in LibreChat: conversations, messages, files, shared links, agents and small collections."""
