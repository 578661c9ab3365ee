"""What remote servers send, on whatever session, on its way to the local server."""

import asyncio

from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene, Peer
from tests.workers.gateway.session_bench import LOCAL, REMOTE, message, on_quiet_loop, until
from workers.gateway.inbound import ReturnSource
from workers.xmpp.events import StanzaRefused, StanzasReceived

OTHER = "rooms.montague.example"


async def a_source(gateway: GatewayScene) -> ReturnSource:
    """A source on a session whose peer has sent two stanzas that were taken from it."""
    await gateway.start()
    peer: Peer = await gateway.open_remote()
    source = ReturnSource(gateway.router, peer.session)
    peer.session.stream.received.enabled = True
    peer.session.stream.received.receive(2)
    return source


def come(*ids: str, sender: str = REMOTE) -> StanzasReceived:
    stanzas = [message(id, sender=sender, target=LOCAL) for id in ids]
    return StanzasReceived(stanzas, resendable=True)


@on_quiet_loop
async def test_what_is_handled_is_counted_on_the_session(gateway: GatewayScene) -> None:
    source = await a_source(gateway)
    source.take(come("1", "2"), PAIR)
    assert await source.settled(5)
    assert source.base_session.stream.received.h == 2
    source.end()


@on_quiet_loop
async def test_what_the_local_server_does_not_take_pends(gateway: GatewayScene) -> None:
    gateway.local.handles = False
    source = await a_source(gateway)
    source.take(come("1"), PAIR)
    assert not await source.settled(0.05)
    waiting = asyncio.create_task(source.settled(5))
    await until(lambda: gateway.local.got)
    gateway.local.sessions[0].mark_handled(1)
    assert await waiting
    source.end()


@on_quiet_loop
async def test_several_pairs_have_a_hop_each_and_are_left_at_the_end(
    gateway: GatewayScene,
) -> None:
    source = await a_source(gateway)
    event = come("1", "2")
    event.stanzas += come("3", sender=OTHER).stanzas
    source.take(event, None)
    hops = [gateway.router.to_local(DomainPair(LOCAL, domain)) for domain in (REMOTE, OTHER)]
    assert [hop.users for hop in hops] == [1, 1]
    source.end()
    source.end()
    assert [hop.users for hop in hops] == [0, 0] and source.origin.lost


@on_quiet_loop
async def test_a_source_that_is_held_back_stays_so_on_the_next_session(
    gateway: GatewayScene,
) -> None:
    source = await a_source(gateway)
    other = (await gateway.open_remote()).session
    source.pause()
    source.go_on(other)
    assert source.base_session is other and other.is_paused
    source.resume()
    assert not other.is_paused
    source.end()


@on_quiet_loop
async def test_a_refused_stanza_is_returned_in_its_place(gateway: GatewayScene) -> None:
    source = await a_source(gateway)
    refused = StanzaRefused(come("1").stanzas[0], "too many elements", resendable=True)
    source.refuse(refused)
    await until(lambda: gateway.remote.ids() == ["1"])
    assert gateway.remote.got[0].type == "error"
    assert await source.settled(5)
    source.end()
