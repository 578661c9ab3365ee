"""The data plane: worker processes that carry s2s streams over secure WebSocket."""
