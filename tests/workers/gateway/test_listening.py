"""Somebody waits: we are told; we rest: we are not; we stop: nobody is let wait in vain."""

import asyncio
import socket

import pytest

from tests.workers.gateway.session_bench import on_quiet_loop, until
from workers.gateway.listening import Listening


@on_quiet_loop
async def test_a_socket_is_looked_at_again_after_its_rest_and_never_once_it_is_closed() -> None:
    calls = 0

    def accept(sock: socket.socket) -> None:
        nonlocal calls
        calls += 1
        listening.rest(sock, 0.1)

    listening = Listening(accept)
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    listening.start([sock])
    with socket.create_connection(address):
        began = asyncio.get_running_loop().time()
        await until(lambda: calls == 3)
        assert asyncio.get_running_loop().time() - began >= 0.18
        listening.stop()
        await asyncio.sleep(0.15)
        assert calls == 3
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
