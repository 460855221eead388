"""The remote Agents API under /api/agents/v1 (contract §6)."""
