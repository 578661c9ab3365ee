"""The admin surface: HTTP API, metrics and status page."""
