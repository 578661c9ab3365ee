"""The other side of a load test: a local server that answers, echoes and copies."""
