import asyncio
import socket

import pytest

from tests.workers.gateway.tcp import silent_listener
from workers.gateway.racing import STAGGER, NotConnected, connect_any

LISTENING, SILENT, CLOSED = "127.0.79.1", "127.0.79.2", "127.0.79.3"
PORT = 5443


@pytest.fixture
def listener():
    with socket.create_server((LISTENING, PORT)) as sock:
        yield sock


async def test_the_next_is_tried_when_one_refuses(listener):
    address, sock = await connect_any([CLOSED, LISTENING], PORT, timeout=5)
    with sock:
        assert address == LISTENING
        assert sock.getpeername() == (LISTENING, PORT)
        assert not sock.getblocking()


async def test_the_address_that_is_silent_costs_a_quarter_of_a_second(listener):
    with silent_listener(SILENT, PORT):
        started = asyncio.get_running_loop().time()
        address, sock = await connect_any([SILENT, LISTENING], PORT, timeout=5)
        sock.close()
    assert address == LISTENING
    assert STAGGER * 0.9 <= asyncio.get_running_loop().time() - started < 2


async def test_families_take_turns(listener):
    tried = []
    loop = asyncio.get_running_loop()
    sock_connect = loop.sock_connect

    async def watched(sock, where):
        tried.append(where[0])
        await sock_connect(sock, where)

    loop.sock_connect = watched
    with pytest.raises(NotConnected):
        await connect_any([CLOSED, "127.0.79.4", "::1"], 1, timeout=2)
    assert tried == [CLOSED, "::1", "127.0.79.4"]


async def test_a_mapped_address_is_named_as_it_was_given(listener):
    address, sock = await connect_any([f"::ffff:{LISTENING}"], PORT, timeout=2)
    sock.close()
    assert address == f"::ffff:{LISTENING}"


async def test_nobody_there_is_one_line():
    with pytest.raises(NotConnected, match=r"^Connection refused$"):
        await connect_any([CLOSED, "127.0.79.4"], PORT, timeout=2)
    with silent_listener(SILENT, PORT), pytest.raises(NotConnected, match=r"no answer within 0\.1"):
        await connect_any([SILENT], PORT, timeout=0.1)
