"""Proves that quotas hold: real processes under load, killed at random moments, and one table of what came of it."""
