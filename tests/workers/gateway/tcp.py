"""Connected loopback sockets for tests."""

import contextlib
import socket
from collections.abc import Iterator


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        sock.setblocking(False)
    return one, other


@contextlib.contextmanager
def silent_listener(address: str, port: int = 443) -> Iterator[None]:
    """Nobody answers there, not even with a refusal: the queue for connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((address, port), backlog=0))
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield
