"""GEKO: tenants, workspaces and token quotas for an unmodified LibreChat, as a reverse proxy."""

__version__ = "0.1.0"
