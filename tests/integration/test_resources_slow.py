"""RES-01: slowloris, on every phase of a connection."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from OpenSSL import SSL
from websockets.frames import Frame, Opcode

from loadtest.stage.peers import FRAMING, XmppProxyPeer
from loadtest.stage.processes import eventually
from loadtest.stage.stage import CAPULET
from loadtest.stage.users import User
from loadtest.stage.wire import Wire, WireClosed, dial, tls_context
from tests.integration.conversation import talk
from tests.integration.resources_scene import GUEST, SOON, URL, Victim, client_hello, is_open, join


async def dribble(send: Callable[[bytes], object], data: bytes) -> None:
    """A byte at a time, for longer than anybody should wait."""
    for at in range(len(data)):
        send(data[at : at + 1])
        await asyncio.sleep(0.3)


async def raw_until_cut(victim: Victim, beginning: bytes) -> None:
    with victim.connect(victim.new_address()) as sock:
        sock.send(beginning)
        await eventually(lambda: not is_open(sock), within=SOON, what="silence is cut")


async def until_cut(wire: Wire) -> None:
    async with asyncio.timeout(SOON):
        with contextlib.suppress(WireClosed):
            while True:
                await wire.receive(SOON)


async def slow_request(victim: Victim, guest: XmppProxyPeer) -> None:
    tls = tls_context(None)
    connection = SSL.Connection(tls, victim.connect(victim.new_address()))
    connection.set_connect_state()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(SOON):
            for byte in ["", *"GET /xmpp-s2s HTTP/1.1\r\nHost: capulet.example\r\nX: " + "x" * 99]:
                with contextlib.suppress(SSL.WantReadError):
                    connection.do_handshake() if not byte else connection.send(byte.encode())
                await asyncio.sleep(0.2)
            raise AssertionError(f"still open at {loop.time()}")
    except SSL.Error:
        return
    finally:
        connection.close()


async def unsaid_open(victim: Victim, guest: XmppProxyPeer) -> None:
    await until_cut(await dial(URL, victim.gateway.address, tls_context(None)))


async def half_a_frame(victim: Victim, guest: XmppProxyPeer) -> None:
    wire = await dial(URL, victim.gateway.address, tls_context(None))
    wire.send_bytes(Frame(Opcode.TEXT, b"<open " + b" " * 2000).serialize(mask=True)[:100])
    await until_cut(wire)


async def unproved(victim: Victim, guest: XmppProxyPeer) -> None:
    wire = await dial(URL, victim.gateway.address, tls_context(None))
    wire.send(f"<open xmlns='{FRAMING}' from='{GUEST}' to='{CAPULET}' version='1.0'/>")
    await until_cut(wire)


async def half_a_stanza(victim: Victim, guest: XmppProxyPeer) -> None:
    wire = await join(guest, victim)
    frame = Frame(Opcode.TEXT, b"<message>" + b"x" * 2000).serialize(mask=True)
    wire.send_bytes(frame[:100])
    await until_cut(wire)


async def dribbled_stanza(victim: Victim, guest: XmppProxyPeer) -> None:
    wire = await join(guest, victim)
    frame = Frame(Opcode.TEXT, b"<message>" + b"x" * 2000).serialize(mask=True)
    dribbling = asyncio.ensure_future(dribble(wire.send_bytes, frame))
    await until_cut(wire)
    dribbling.cancel()


async def dribbled_fragments(victim: Victim, guest: XmppProxyPeer) -> None:
    wire = await join(guest, victim)
    wire.send_frame(Opcode.TEXT, b"<message>", mask=True, fin=False)

    def fragment(data: bytes) -> None:
        wire.send_frame(Opcode.CONT, data, mask=True, fin=False)

    dribbling = asyncio.ensure_future(dribble(fragment, b"x" * 2000))
    await until_cut(wire)
    dribbling.cancel()


SLOW: list[Callable[[Victim, XmppProxyPeer], Awaitable[None]]] = [
    lambda victim, guest: raw_until_cut(victim, b""),
    lambda victim, guest: raw_until_cut(victim, client_hello()[:60]),
    lambda victim, guest: raw_until_cut(victim, client_hello()),
    slow_request,
    unsaid_open,
    half_a_frame,
    unproved,
    half_a_stanza,
    dribbled_stanza,
    dribbled_fragments,
]


async def test_res01_who_is_slow_is_cut_in_time_in_every_phase(
    victim: Victim, guest: XmppProxyPeer, juliet: User, romeo: User
) -> None:
    await talk(juliet, romeo)
    slow = asyncio.gather(*(attack(victim, guest) for attack in SLOW))
    await talk(juliet, romeo)
    await slow
    # All but two: an authenticated peer that is silent in a frame is found by pings.
    await victim.wait_refused("slow", len(SLOW) - 1)
