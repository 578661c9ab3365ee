"""A connection is read only while no reason holds it, and a closing one until its end."""

import asyncio
from collections.abc import Callable

from tests.workers.gateway.channels import Reader, channel_on, end, secured_pair, tcp_pair
from tests.workers.gateway.session_bench import until
from tests.workers.gateway.wire_bench import RecordingOwner, on_both_loops
from workers.gateway.channel import Channel, adopt_channel


@on_both_loops
async def test_reading_can_be_paused() -> None:
    client, client_owner, server, server_owner = await secured_pair()

    server.pause_reading()
    client.write(b"x" * 20_000_000)
    await client_owner.wait_for("write_paused")
    assert server_owner.data == b""
    server.resume_reading()

    await server_owner.wait_for_data(20_000_000)
    client.abort()
    server.abort()
    await server_owner.wait_for("closed")


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
async def test_of_several_reasons_the_last_one_to_go_lets_it_read() -> None:
    owner = RecordingOwner()
    peer, accepted = tcp_pair()
    channel = await channel_on(owner, accepted)
    turns: list[str] = []
    channel.pause_reading()
    channel.pause_reading()  # one reason, however often
    channel.rest(0.02)
    channel.pass_turn(lambda: turns.append("taken"))
    peer.send(b"held")
    await until(lambda: turns and not channel.is_resting)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not owner.data
    channel.resume_reading()
    assert await owner.wait_for_data(4) == b"held"
    await end(channel, owner, peer)


@on_both_loops
async def test_who_passes_its_turn_goes_on_in_the_next_one_before_it_is_read() -> None:
    peer, accepted = tcp_pair()
    order: list[tuple[str, int]] = []
    owner = Reader("read", order)
    channel = await channel_on(owner, accepted)

    def go_on() -> None:
        order.append(("turn", 0))
        if len(order) < 4:
            channel.pass_turn(go_on)

    channel.pass_turn(go_on)
    assert not order
    peer.send(b"data")
    await owner.wait_for_data(4)
    assert order == [("turn", 0)] * 4 + [("read", 4)]
    await end(channel, owner, peer)


@on_both_loops
async def test_who_rests_does_not_get_its_turn_before() -> None:
    owner = RecordingOwner()
    peer, accepted = tcp_pair()
    channel = await channel_on(owner, accepted)
    seen: list[bool] = []
    channel.pass_turn(lambda: seen.append(channel.is_resting))
    channel.rest(0.03)
    assert channel.is_resting
    peer.send(b"data")
    await owner.wait_for_data(4)
    assert seen == [False] and not channel.is_resting
    await end(channel, owner, peer)


@on_both_loops
async def test_a_closing_one_is_held_by_nothing() -> None:
    owner = RecordingOwner()
    peer, accepted = tcp_pair()
    channel = await channel_on(owner, accepted)
    channel.pause_reading()
    channel.close("enough")
    channel.pause_reading()
    channel.rest(60.0)
    assert not channel.is_resting
    turns: list[str] = []
    channel.pass_turn(lambda: turns.append("taken"))
    await until(lambda: turns)
    peer.close()
    await owner.wait_for("closed")
    assert owner.reason == "enough"


@on_both_loops
async def test_who_is_lost_while_it_rests_does_not_wait_for_its_turn() -> None:
    class Counted(Channel):
        asked = 0

        def _go_on(self, go_on: Callable[[], None]) -> None:
            self.asked += 1
            super()._go_on(go_on)

    owner = RecordingOwner()
    peer, accepted = tcp_pair()
    channel = Counted(owner)
    await adopt_channel(channel, accepted)
    channel.rest(60.0)
    channel.pass_turn(lambda: None)
    await until(lambda: channel.asked > 1)  # it is asked for again and again
    channel.abort("lost")
    await owner.wait_for("closed")
    await asyncio.sleep(0.05)
    asked = channel.asked
    await asyncio.sleep(0.05)
    assert channel.asked == asked
    peer.close()


@on_both_loops
async def test_reasons_that_end_after_the_connection_do_nothing() -> None:
    owner = RecordingOwner()
    peer, accepted = tcp_pair()
    channel = await channel_on(owner, accepted)
    channel.pause_reading()
    channel.rest(0.02)
    await end(channel, owner, peer)
    channel.resume_reading()
    channel.pause_reading()
    await asyncio.sleep(0.05)
    assert owner.told.count("closed") == 1
