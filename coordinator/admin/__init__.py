"""The admin surface: HTTP API, metrics and status page. It reads; it changes nothing."""
