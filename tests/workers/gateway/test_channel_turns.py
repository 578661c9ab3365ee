"""No connection takes more than its turn, rests when it is told to, or fills our memory."""

import asyncio
import socket

from tests.workers.gateway.channels import channel_on
from tests.workers.gateway.wire_bench import RecordingOwner, on_both_loops
from workers.gateway import channel as channel_module
from workers.gateway.channel import READ_SIZE, SHARED_READ_SIZE, UNREAD, Channel


class Reader(RecordingOwner):
    """Writes down who read how much, in the order of all readers."""

    def __init__(self, name: str, order: list[tuple[str, int]]) -> None:
        super().__init__()
        self.name = name
        self.order = order

    def data_received(self, data: bytes) -> None:
        self.order.append((self.name, len(data)))
        super().data_received(data)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection, with room for half a megabyte on its way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    return near, far


async def end(channel: Channel, owner: RecordingOwner, peer: socket.socket) -> None:
    channel.abort()
    await owner.wait_for("closed")
    peer.close()


@on_both_loops
async def test_a_flood_is_read_in_turns_with_the_others() -> None:
    order: list[tuple[str, int]] = []
    flood, quiet = tcp_pair(), tcp_pair()
    sent = flood[0].send(bytes(400_000))
    assert sent > 8 * READ_SIZE
    readers = [Reader("flood", order), Reader("quiet", order)]
    channels = [
        await channel_on(reader, far)
        for reader, (_, far) in zip(readers, (flood, quiet), strict=True)
    ]
    await readers[0].wait_for_data(1)
    read = len(order)
    quiet[0].send(b"hello")
    await readers[1].wait_for_data(5)
    reads_before = order.index(("quiet", 5)) - read
    await readers[0].wait_for_data(sent)
    for channel, reader, (peer, _) in zip(channels, readers, (flood, quiet), strict=True):
        await end(channel, reader, peer)
    assert reads_before <= 2
    assert max(size for _, size in order) <= READ_SIZE


@on_both_loops
async def test_in_company_less_is_read_at_a_time_and_alone_more_again() -> None:
    order: list[tuple[str, int]] = []
    peer, accepted = tcp_pair()
    reader = Reader("flood", order)
    channel = await channel_on(reader, accepted)
    channel.has_company = True
    sent = peer.send(bytes(200_000))
    await reader.wait_for_data(sent)
    assert max(size for _, size in order) == SHARED_READ_SIZE < READ_SIZE
    order.clear()
    channel.has_company = False
    sent += peer.send(bytes(200_000))
    await reader.wait_for_data(sent)
    assert max(size for _, size in order) == READ_SIZE
    await end(channel, reader, peer)


@on_both_loops
async def test_who_must_rest_is_not_read_whatever_its_owner_does() -> None:
    owner = RecordingOwner()
    peer, accepted = tcp_pair()
    channel = await channel_on(owner, accepted)
    loop = asyncio.get_running_loop()
    began = loop.time()
    channel.pause_reading()
    channel.rest(0.1)
    channel.resume_reading()
    peer.send(b"too early")
    await owner.wait_for_data(9)
    assert loop.time() - began >= 0.08
    channel.pause_reading()
    channel.rest(0.05)
    peer.send(b"held")
    await asyncio.sleep(0.15)
    assert bytes(owner.data) == b"too early"
    channel.resume_reading()
    await owner.wait_for_data(13)
    await end(channel, owner, peer)


@on_both_loops
async def test_who_rests_is_read_again_to_be_closed() -> None:
    owner = RecordingOwner()
    peer, accepted = tcp_pair()
    channel = await channel_on(owner, accepted)
    channel.rest(60.0)
    channel.close("enough")
    peer.close()
    await owner.wait_for("closed")
    assert owner.reason == "enough"


@on_both_loops
async def test_answers_that_nobody_reads_end_the_connection() -> None:
    owner = RecordingOwner()
    peer, accepted = tcp_pair()
    channel = await channel_on(owner, accepted)
    most = 0
    while "closed" not in owner.told:
        channel.write(bytes(65536))
        most = max(most, channel.buffered)
        await asyncio.sleep(0)
    assert owner.reason == UNREAD
    assert most <= channel_module.MAX_UNREAD + 2 * 65536
    peer.close()


@on_both_loops
async def test_much_that_was_sent_at_once_may_wait_for_a_slow_reader() -> None:
    owner = RecordingOwner()
    peer, accepted = tcp_pair()
    channel = await channel_on(owner, accepted)
    channel.write(bytes(2 * channel_module.MAX_UNREAD))  # as when a session is resumed
    await owner.wait_for("write_paused")
    assert channel.buffered > channel_module.MAX_UNREAD
    channel.write(b"<r/>")
    await asyncio.sleep(0.02)
    assert "closed" not in owner.told
    await end(channel, owner, peer)
