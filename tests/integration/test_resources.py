"""Attacks on what a gateway has little of: places, time, memory, descriptors. They end within a
bound, are counted, leave no memory behind, and meanwhile juliet and romeo talk through the same
worker.
"""

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from OpenSSL import SSL
from websockets.frames import Frame, Opcode

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.gateway import Gateway
from loadtest.stage.peers import FRAMING, XmppProxyPeer
from loadtest.stage.processes import eventually
from loadtest.stage.stage import CAPULET, Stage
from loadtest.stage.users import User
from loadtest.stage.wire import Wire, WireClosed, dial, tls_context
from tests.integration.conversation import talk

GUEST, GLUTTON = "guest.example", "glutton.example"
URL = f"wss://{CAPULET}/xmpp-s2s"
MIB = 1048576
# Much less than the defaults, so that attacks are short.
LIMITS: dict[str, Any] = {
    "authentication_timeout": 3.0,
    "stanza_timeout": 3.0,
    "ping_interval": 1.5,
    "unauthenticated_per_address": 100,
    "handshakes_per_address": 300,
    "sessions_per_domain": 3,
    "stanzas_per_second": 1000,
    "queue_bytes": 262144,
}
# How long an attacker may stay: the largest of the times above, and the end in order.
SOON = 12.0


class Victim:
    """capulet's gateway with one worker and small limits, and what is known of that worker."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.gateway: Gateway = stage.capulet_gateway
        self.pid = 0
        self._addresses = 0

    async def find_worker(self) -> None:
        (self.pid,) = await self.gateway.worker_pids()

    @property
    def rss(self) -> int:
        words = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(words[1]) * resource.getpagesize()

    @property
    def cpu_seconds(self) -> float:
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def new_address(self) -> str:
        """An address that no attack has used."""
        self._addresses += 1
        actor, host = divmod(self._addresses, 250)
        return f"127.{self.stage.addresses.slot}.{200 + actor}.{2 + host}"

    def connect(self, source: str) -> socket.socket:
        sock = socket.create_connection(
            (self.gateway.address, WEBSOCKET_PORT), timeout=5, source_address=(source, 0)
        )
        sock.setblocking(False)
        return sock

    async def refused(self, reason: str) -> int:
        status = await self.gateway.api("status")
        return int(status["refused"].get(reason, 0))

    async def wait_refused(self, reason: str, least: int) -> None:
        """Until the worker has reported so many: it does so each second."""
        async with asyncio.timeout(5):
            while True:
                if await self.refused(reason) >= least:
                    return
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def victim(stage: Stage) -> AsyncIterator[Victim]:
    gateway = stage.capulet_gateway
    before = dict(gateway.options["limits"])
    gateway.configure("gateway", workers=1)
    gateway.configure("limits", **LIMITS)
    await gateway.restart()
    victim = Victim(stage)
    await victim.find_worker()
    yield victim
    gateway.configure("gateway", workers=2, max_worker_rss=None)
    gateway.options["limits"] = before
    await gateway.restart()


class Glutton(XmppProxyPeer):
    """Authenticates, and then reads nothing of what it has asked for."""

    async def serve(self, wire: Wire) -> None:
        serving = asyncio.ensure_future(super().serve(wire))
        await self.stanzas.get()
        serving.cancel()
        wire.stop_reading()


def peer(kind: type[XmppProxyPeer], victim: Victim, domain: str) -> XmppProxyPeer:
    return kind(domain, victim.new_address(), victim.stage.authority.issue(domain))


@pytest_asyncio.fixture(loop_scope="session")
async def guest(victim: Victim) -> AsyncIterator[XmppProxyPeer]:
    """A remote domain whose certificate is good."""
    made = peer(XmppProxyPeer, victim, GUEST)
    yield made
    await made.stop()


async def join(guest: XmppProxyPeer, victim: Victim) -> Wire:
    return await guest.connect(URL, victim.gateway.address, CAPULET)


def is_open(sock: socket.socket) -> bool:
    """The other side has not hung up."""
    try:
        while data := sock.recv(65536):
            del data
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def has_answer(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1))
    except BlockingIOError:
        return False


def all_closed(socks: list[socket.socket]) -> bool:
    return not any(map(is_open, socks))


def client_hello() -> bytes:
    tls = SSL.Connection(tls_context(None), None)
    tls.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        tls.do_handshake()
    return tls.bio_read(65536)


# RES-01: slowloris, on every phase.


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


# RES-08 and 09: the worker itself is short of something.


@contextlib.contextmanager
def few_descriptors(pid: int, spare: int) -> Iterator[int]:
    """The process may have `spare` more than it has open; yields the bound."""
    open_now = len(os.listdir(f"/proc/{pid}/fd"))
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    bound = open_now + spare
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (bound, hard))
    try:
        yield bound
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


async def test_res08_without_descriptors_all_goes_on_but_strangers(
    victim: Victim, guest: XmppProxyPeer, juliet: User, friar: User, romeo: User
) -> None:
    with few_descriptors(victim.pid, 80) as bound:
        await asyncio.sleep(1.2)  # the worker looks each second
        socks = [victim.connect(victim.new_address()) for _ in range(50)]
        sources = [victim.new_address() for _ in range(4)]
        socks += [victim.connect(source) for source in sources for _ in range(25)]
        began = victim.cpu_seconds
        await asyncio.sleep(1.0)
        assert victim.cpu_seconds - began < 0.5
        open_now = len(os.listdir(f"/proc/{victim.pid}/fd"))
        assert open_now <= bound * 0.95, (open_now, bound)
        await talk(juliet, romeo)
        # A stream of the local server and its way to a domain that was never written to before.
        await talk(juliet, friar)
        assert await victim.gateway.api("workers")
        await victim.wait_refused("descriptors", 20)
    for sock in socks:
        sock.close()
    await asyncio.sleep(1.2)
    guest.close(await join(guest, victim))


async def test_res09_when_memory_is_short_strangers_make_room_and_sessions_stay(
    victim: Victim, guest: XmppProxyPeer, juliet: User, romeo: User
) -> None:
    wire = await join(guest, victim)
    socks = [victim.connect(victim.new_address()) for _ in range(20)]
    await asyncio.sleep(0.3)
    assert any(map(is_open, socks))
    victim.gateway.configure("gateway", max_worker_rss=int(victim.rss * 1.06))
    await victim.gateway.run("reload")
    await eventually(lambda: all_closed(socks), within=4.5, what="strangers are cut")
    late = victim.connect(victim.new_address())
    late.send(client_hello())
    await asyncio.sleep(0.7)
    assert not has_answer(late)
    await talk(juliet, romeo)
    assert await guest.acknowledged(wire) == 0
    await victim.wait_refused("memory", 10)
    victim.gateway.configure("gateway", max_worker_rss=None)
    await victim.gateway.run("reload")
    await eventually(lambda: has_answer(late), within=5, what="who waited is let in")
    guest.close(await join(guest, victim))
    guest.close(wire)
    late.close()
    for sock in socks:
        sock.close()
