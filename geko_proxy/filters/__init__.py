"""The filter contract, the chain, and the built-in filters (which use only the public contract)."""
