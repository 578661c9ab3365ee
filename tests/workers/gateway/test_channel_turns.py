"""No connection takes more than its turn, or fills our memory."""

import asyncio

from tests.workers.gateway.channels import Reader, channel_on, end, tcp_pair
from tests.workers.gateway.wire_bench import RecordingOwner, on_both_loops
from workers.gateway import channel as channel_module
from workers.gateway.channel import READ_SIZE, SHARED_READ_SIZE, UNREAD


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
