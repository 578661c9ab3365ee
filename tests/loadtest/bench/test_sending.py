"""Generators talk to each other without a gateway: every stanza once, all acknowledged."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from loadtest.bench.link import Link
from loadtest.bench.opening import Accepting, Domains, Identity, connect_tcp, connect_wss
from loadtest.bench.sending import Load, prepare
from loadtest.bench.tally import Tally
from loadtest.stage.addresses import S2S_PORT, WEBSOCKET_PORT, Addresses
from loadtest.stage.authority import TestAuthority

HERE, THERE = "a.example", "d7.peers.example"


class Ends:
    """One identity that accepts on both kinds of connection, and one that opens."""

    def __init__(self, folder: Path, *, manages: bool) -> None:
        authority = TestAuthority(folder)
        ours, theirs = authority.issue(HERE), authority.issue("*.peers.example")
        self.addresses = Addresses()
        self.address = self.addresses.of(11)
        self.identity = Identity(
            certificate=ours.certificate, key=ours.key, domains=Domains([HERE]), manages=manages
        )
        other = Identity(
            certificate=theirs.certificate,
            key=theirs.key,
            domains=Domains(["*.peers.example"]),
            manages=manages,
        )
        self.accepted: asyncio.Queue[Link] = asyncio.Queue()
        self.links: list[Link] = []
        self.accepting = Accepting(other, self.accepted.put_nowait)

    async def open(self, *, websocket: bool) -> tuple[Link, Link]:
        """(the end that opened, the end that accepted)."""
        if websocket:
            await self.accepting.listen_wss(self.address)
            address = self.address, WEBSOCKET_PORT
            link = await connect_wss(self.identity, address, "gw.peers.example", HERE, THERE)
        else:
            await self.accepting.listen_tcp(self.address, S2S_PORT)
            link = await connect_tcp(self.identity, (self.address, S2S_PORT), HERE, THERE)
        self.links += [link, await asyncio.wait_for(self.accepted.get(), 5)]
        return self.links[-2], self.links[-1]

    async def close(self) -> None:
        """Close all streams in order."""
        for link in self.links:
            link.close()
        for link in self.links:
            await asyncio.wait_for(link.session.closed_future, 5)
        # The channels close their sockets in the next turns.
        await asyncio.sleep(0.05)
        self.accepting.close()
        self.addresses.release()


@pytest_asyncio.fixture(params=[True, False], ids=["XEP-0198", "bare"])
async def ends(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ends]:
    ends = Ends(tmp_path, manages=request.param)
    yield ends
    await ends.close()


@pytest.mark.parametrize("websocket", [True, False])
@pytest.mark.parametrize("rate", [0, 20_000])
async def test_every_stanza_arrives_once(ends: Ends, websocket: bool, rate: float) -> None:
    sender, sink = await ends.open(websocket=websocket)
    sink.tally = Tally(1000)
    load = Load(prepare([sender], 1000, 16, mixed=True), rate=rate, window=64)
    load.start()
    await asyncio.wait_for(load.finished, 10)
    await asyncio.wait_for(sink.tally.completed.wait(), 10)
    assert (sink.tally.doubled, sink.tally.strange, sink.received) == (0, 0, 1000)
    assert sender.acknowledged == (1000 if sender.manages else 0)
    if rate:
        assert all(due <= there for due, there in zip(load.sent_at, sink.tally.times, strict=True))


async def test_stanzas_are_dealt_to_all_links(ends: Ends) -> None:
    first, _ = await ends.open(websocket=True)
    packets = prepare([first, first], 10, 4)
    assert [(packet.first, packet.count) for packet in packets] == [(0, 4), (4, 4), (8, 2)]


@pytest.mark.parametrize("websocket", [True, False])
async def test_a_link_that_ends_fails_what_was_to_be_sent(ends: Ends, websocket: bool) -> None:
    sender, sink = await ends.open(websocket=websocket)
    ends.links.clear()
    sink.channel.pause_reading()
    load = Load(prepare([sender], 20_000, 16), rate=0, window=1 << 30)
    load.start()
    sink.channel.abort()
    with pytest.raises(ConnectionError, match="has ended"):
        await asyncio.wait_for(load.finished, 10)
