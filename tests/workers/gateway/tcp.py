"""Connected loopback sockets for tests."""

import socket


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        sock.setblocking(False)
    return one, other
