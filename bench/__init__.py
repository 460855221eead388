"""The benchmark: GEKO beside LibreChat alone, nginx and a naive proxy. Run it with `make bench`."""
