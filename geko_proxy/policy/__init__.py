"""What a workspace may use: everything in a request that selects a model, agent, tool or server is checked, and what
LibreChat tells about them is cut down to the same."""
