"""The stand-in's real model calls over HTTP, as LibreChat v0.8.7 makes them (contract §4.2, §4.9)."""
