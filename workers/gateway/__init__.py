"""The I/O shell around the core: sockets, TLS, WebSocket, DNS, discovery, routing."""
