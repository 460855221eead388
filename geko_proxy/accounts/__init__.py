"""Users, passwords, access tokens, sessions, and their shadow accounts in LibreChat."""
