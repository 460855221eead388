"""Tenants, workspaces, members and their roles, and what a workspace may use."""
