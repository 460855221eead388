"""Checks a running LibreChat, and GEKO's own side, against what they need to work together (contract §11)."""
