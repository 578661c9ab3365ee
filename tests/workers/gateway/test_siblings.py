import asyncio
import os
import socket
import stat
import struct

import pytest

from tests.workers.gateway.tcp import tcp_pair
from workers.gateway.siblings import Siblings, SiblingUnavailable, socket_name

FIRST, SECOND = "gw1/w1.65f0", "gw1/w2.65f1"


class Inbox:
    """What a worker got from its siblings."""

    def __init__(self, siblings):
        self.items = asyncio.Queue()
        siblings.on_socket = lambda sock, info: self.items.put_nowait((sock, info))
        siblings.on_message = self.items.put_nowait


@pytest.fixture
async def workers(tmp_path):
    first, second = Siblings(tmp_path / "run", FIRST), Siblings(tmp_path / "run", SECOND)
    await first.start()
    await second.start()
    yield first, second
    await first.close()
    await second.close()


async def test_a_stream_changes_hands_with_its_unread_bytes(workers):
    first, second = workers
    inbox = Inbox(second)
    near, far = tcp_pair()
    far.send(b"<stream:stream>")
    await first.send_socket(SECOND, near, {"pair": ["capulet.example", "montague.example"]})
    assert near.fileno() == -1
    sock, info = await inbox.items.get()
    assert info == {"pair": ["capulet.example", "montague.example"]}
    assert not os.get_inheritable(sock.fileno())
    reader, writer = await asyncio.open_connection(sock=sock)
    assert await reader.readexactly(15) == b"<stream:stream>"
    far.close()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_messages_arrive_in_order(workers):
    first, second = workers
    inbox = Inbox(second)
    for number in range(200):
        await first.send_message(SECOND, {"drained": number})
    assert [(await inbox.items.get())["drained"] for _ in range(200)] == list(range(200))


async def test_a_worker_may_send_to_itself(workers):
    first, _ = workers
    inbox = Inbox(first)
    await first.send_message(FIRST, {"text": "\u05e9\u05dc\u05d5\u05dd"})
    assert await inbox.items.get() == {"text": "\u05e9\u05dc\u05d5\u05dd"}


async def test_an_absent_worker_leaves_the_stream_with_us(workers):
    first, second = workers
    near, far = tcp_pair()
    await second.close()
    with pytest.raises(SiblingUnavailable, match="is away"):
        await first.send_socket(SECOND, near, {})
    far.send(b"still here")
    assert near.fileno() >= 0
    assert await asyncio.get_running_loop().sock_recv(near, 100) == b"still here"
    near.close()
    far.close()


async def test_a_killed_worker_is_told_from_a_living_one_by_its_stale_socket(workers, tmp_path):
    first, _ = workers
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(str(tmp_path / "run" / "gw1_w9.1.sock"))
    stale.listen()
    stale.close()
    with pytest.raises(SiblingUnavailable, match="is away"):
        await first.send_message("gw1/w9.1", {})


async def test_a_worker_that_reads_nothing_is_given_up(workers, tmp_path, monkeypatch):
    first, _ = workers
    monkeypatch.setattr("workers.gateway.siblings._SEND_TIMEOUT", 0.05)
    frozen = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    frozen.bind(str(tmp_path / "run" / "gw1_w9.1.sock"))
    frozen.listen(0)
    with pytest.raises(SiblingUnavailable, match="does not answer"):
        for _ in range(10):
            await first.send_message("gw1/w9.1", {})
    frozen.close()


async def test_a_stopped_worker_that_comes_to_a_withdrawn_stream_lets_it_go(workers, monkeypatch):
    first, second = workers
    monkeypatch.setattr("workers.gateway.siblings.ACKNOWLEDGE_TIMEOUT", 0.02)
    inbox, withdrawn = Inbox(second), asyncio.Queue()
    second.on_withdrawn = withdrawn.put_nowait
    loop = asyncio.get_running_loop()
    loop.remove_reader(second._listener)  # as SIGSTOP does: the kernel still takes packets
    near, far = tcp_pair()
    with pytest.raises(SiblingUnavailable, match="does not take a stream"):
        await first.send_socket(SECOND, near, {"pair": ["a.example", "b.example"]})
    loop.add_reader(second._listener, second._on_connection)
    assert await withdrawn.get() == {"pair": ["a.example", "b.example"]}
    assert inbox.items.empty()
    far.send(b"still here")
    assert await loop.sock_recv(near, 100) == b"still here"
    near.close()
    far.close()


async def test_a_worker_that_dies_over_a_stream_leaves_it_with_us(workers):
    first, second = workers

    def die(sock, info):
        raise AssertionError("never called")

    second.on_socket = die
    loop = asyncio.get_running_loop()
    loop.remove_reader(second._listener)
    near, far = tcp_pair()
    sending = asyncio.create_task(first.send_socket(SECOND, near, {}))
    await asyncio.sleep(0)
    second._listener.close()
    second._listener = None
    with pytest.raises(SiblingUnavailable):
        await sending
    assert near.fileno() >= 0
    near.close()
    far.close()


async def test_too_large_a_message_is_refused_here(workers):
    with pytest.raises(SiblingUnavailable, match="too large"):
        await workers[0].send_message(SECOND, {"x": "y" * 70000})


@pytest.mark.parametrize("packet", [b"no json", b"[1]", b"\xff", b"{" * 5000])
async def test_a_malformed_packet_is_dropped_and_the_next_one_served(workers, tmp_path, packet):
    first, second = workers
    inbox = Inbox(second)
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stranger.connect(str(tmp_path / "run" / socket_name(SECOND)))
    stranger.send(packet)
    stranger.close()
    await first.send_message(SECOND, {"after": True})
    assert await inbox.items.get() == {"after": True}


async def test_surplus_descriptors_are_closed(workers, tmp_path):
    first, second = workers
    inbox = Inbox(second)
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stranger.connect(str(tmp_path / "run" / socket_name(SECOND)))
    ours, theirs = socket.socketpair()
    both = struct.pack("2i", theirs.fileno(), theirs.fileno())
    stranger.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, both)])
    theirs.close()
    stranger.close()
    await first.send_message(SECOND, {"after": True})
    assert await inbox.items.get() == {"after": True}
    assert ours.recv(1) == b""
    ours.close()


async def test_only_our_own_user_may_connect(workers, tmp_path):
    run = tmp_path / "run"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / socket_name(FIRST)).stat().st_mode) == 0o600


async def test_a_long_state_directory_and_a_long_name_work(tmp_path):
    run = tmp_path / ("d" * 100) / ("e" * 100)
    long_id = "gateway-" + "x" * 90 + "/w1.1"
    one = Siblings(run, long_id)
    inbox = Inbox(one)
    await one.start()
    await one.send_message(long_id, {"n": 1})
    assert await inbox.items.get() == {"n": 1}
    await one.close()
    assert list(run.iterdir()) == []


async def test_a_leftover_of_a_predecessor_is_replaced(tmp_path):
    for _ in range(2):
        siblings = Siblings(tmp_path, FIRST)
        await siblings.start()
        asyncio.get_running_loop().remove_reader(siblings._listener)
        siblings._listener.close()  # as if the process had died: the file stays
        siblings._listener = None
        await siblings.close()
    assert (tmp_path / socket_name(FIRST)).exists()
