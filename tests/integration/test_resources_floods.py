"""RES-02 to 07: floods of strangers, and of peers that have proved who they are."""

import asyncio
import contextlib
import time

import pytest

from loadtest.stage.peers import XmppProxyPeer
from loadtest.stage.processes import eventually
from loadtest.stage.stage import CAPULET
from loadtest.stage.users import User
from loadtest.stage.wire import Wire, WireClosed
from tests.integration.conversation import talk
from tests.integration.resources_scene import (
    GLUTTON,
    GUEST,
    LIMITS,
    MIB,
    URL,
    Victim,
    client_hello,
    is_open,
    join,
    peer,
)


class Glutton(XmppProxyPeer):
    """Authenticates, and then reads nothing of what it has asked for."""

    async def serve(self, wire: Wire) -> None:
        serving = asyncio.ensure_future(super().serve(wire))
        await self.stanzas.get()
        serving.cancel()
        wire.stop_reading()


# RES-02 to 05: floods of strangers.


async def test_res02_half_open_handshakes_leave_no_memory_behind(
    victim: Victim, juliet: User, romeo: User
) -> None:
    hello = client_hello()
    seen = []
    for number in range(12):
        source = victim.new_address()
        socks = [victim.connect(source) for _ in range(80)]
        for at, sock in enumerate(socks):
            # Half of them get as far as the server's part of the handshake.
            with contextlib.suppress(OSError):
                sock.send(hello if at % 2 else hello[:80])
        await asyncio.sleep(0.1)
        for sock in socks:
            sock.close()
        seen.append(victim.rss)
        if number == 6:
            await talk(juliet, romeo)
    assert seen[-1] - seen[3] < 4 * MIB, seen


async def test_res03_one_address_has_its_places_and_others_get_in(
    victim: Victim, guest: XmppProxyPeer, juliet: User, romeo: User
) -> None:
    source = victim.new_address()
    socks = [victim.connect(source) for _ in range(250)]
    await eventually(
        lambda: sum(map(is_open, socks)) <= LIMITS["unauthenticated_per_address"],
        within=5,
        what="those beyond the limit are hung up on",
    )
    await talk(juliet, romeo)
    wire = await join(guest, victim)
    assert await guest.acknowledged(wire) == 0
    guest.close(wire)
    await victim.wait_refused("strangers-of-address", 150)
    for sock in socks:
        sock.close()


async def test_res04_one_address_may_not_come_again_and_again(
    victim: Victim, guest: XmppProxyPeer, juliet: User, romeo: User
) -> None:
    source = victim.new_address()
    for _ in range(8):
        socks = [victim.connect(source) for _ in range(50)]
        await asyncio.sleep(0.05)
        for sock in socks:
            sock.close()
    await victim.wait_refused("handshakes-of-address", 50)
    await talk(juliet, romeo)
    guest.close(await join(guest, victim))


async def test_res05_a_domain_may_open_so_many_sessions(
    victim: Victim, guest: XmppProxyPeer
) -> None:
    wires = [await join(guest, victim) for _ in range(LIMITS["sessions_per_domain"])]
    with pytest.raises(WireClosed):
        await join(guest, victim)
    assert any("resource-constraint" in line for line in guest.log), guest.log[-5:]
    for wire in wires:
        assert await guest.acknowledged(wire) == 0
    guest.close(wires.pop())
    await asyncio.sleep(0.2)
    wires.append(await join(guest, victim))
    for wire in wires:
        guest.close(wire)


# RES-06 and 07: peers that have proved who they are.


def nothing(number: int) -> str:
    """A stanza that ends at the local server: an error is never answered."""
    return (
        f"<message xmlns='jabber:server' from='paris@{GUEST}' to='nobody@{CAPULET}' type='error' "
        f"id='flood-{number}'/>"
    )


async def test_res06_a_flood_is_read_at_its_pace_and_nothing_of_it_is_lost(
    victim: Victim, guest: XmppProxyPeer, juliet: User, romeo: User
) -> None:
    wire = await join(guest, victim)
    before, began = victim.rss, time.monotonic()
    # A second's share at once, and what is three more.
    count = 4 * LIMITS["stanzas_per_second"]
    for number in range(count):
        wire.send(nothing(number))
        if number % 500 == 0:
            await asyncio.sleep(0)
    talking = asyncio.ensure_future(talk(juliet, romeo))
    handled = 0
    async with asyncio.timeout(20):
        while handled < count:
            handled = await guest.acknowledged(wire)
    assert time.monotonic() - began > 2.5
    await talking
    assert victim.rss - before < 25 * MIB
    guest.close(wire)


async def test_res07_a_slow_reader_holds_its_own_pair_alone_and_little_memory(
    victim: Victim, juliet: User, romeo: User
) -> None:
    stage = victim.stage
    glutton = peer(Glutton, victim, GLUTTON)
    stage.dns.set(GLUTTON, "A", glutton.address)
    await glutton.start()
    wire = await glutton.connect(URL, victim.gateway.address, CAPULET)
    before = victim.rss
    request = (
        "<iq xmlns='jabber:server' type='get' from='paris@{0}' to='{1}' id='{2}'>"
        "<query xmlns='http://jabber.org/protocol/disco#info' node='{3}'/></iq>"
    )
    # Each is answered by an error that repeats it.
    for number in range(4000):
        wire.send(request.format(GLUTTON, CAPULET, f"g{number}", "x" * 8000))
        if number % 100 == 0:
            await asyncio.sleep(0)
    most = 0
    for _ in range(3):
        await talk(juliet, romeo)
        most = max(most, victim.rss)
        await asyncio.sleep(0.5)
    held = await victim.gateway.sessions(GLUTTON)
    assert held
    await glutton.stop()
    stage.dns.remove(GLUTTON)
    # Of 32 MB of requests and as much of answers the queue may hold 256 KiB, as objects some times
    # as much; what was read and written in one turn comes to it.
    assert most - before < 20 * MIB, (before, most)
    await talk(juliet, romeo)
