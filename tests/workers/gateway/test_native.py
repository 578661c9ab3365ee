import asyncio
import contextlib
import random
import resource
import socket
import struct

import pytest

from coordinator.address import Address
from tests.workers.gateway.tcp import tcp_pair
from workers.gateway.addresses import AddressPolicy
from workers.gateway.native import NativeFailed, connect_native, greet, is_own, splice
from workers.gateway.resolver import ResolveFailed, ServiceNotOffered, ServiceTarget

LOOPBACK = AddressPolicy(["127.0.0.0/8", "::1/128"])


class Names:
    """A resolver that knows what the test tells it."""

    def __init__(self, addresses=None, srv=()):
        self._addresses = addresses or {}
        self._srv = srv

    async def addresses(self, host):
        if host not in self._addresses:
            raise ResolveFailed(f"{host} does not exist in DNS")
        return self._addresses[host]

    async def srv(self, service, domain):
        assert (service, domain) == ("_xmpp-server._tcp", "escalus.example")
        if isinstance(self._srv, Exception):
            raise self._srv
        return [ServiceTarget(host, port, 0, 0) for host, port in self._srv]


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address(*listener.getsockname())


@pytest.fixture
def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


async def connect(names, **options):
    sock = await connect_native(
        "escalus.example", names, options.pop("policy", LOOPBACK), **options
    )
    with sock:
        assert sock.getblocking() is False
        return Address(*sock.getpeername()[:2])


async def test_the_srv_target_is_connected_to(server):
    names = Names({"xmpp.escalus.example": [server.host]}, [("xmpp.escalus.example", server.port)])
    assert await connect(names) == server


async def test_the_next_target_and_address_is_tried_when_one_fails(server, closed_port):
    names = Names(
        {"a.example": ["127.0.0.1"], "b.example": ["::1", "127.0.0.2", server.host]},
        [("a.example", closed_port), ("gone.example", 1), ("b.example", server.port)],
    )
    assert await connect(names) == server


@pytest.mark.parametrize("srv", [(), ResolveFailed("SERVFAIL", temporary=True)])
async def test_without_srv_the_domain_itself_is_the_target(srv, closed_port, monkeypatch, server):
    monkeypatch.setattr("workers.gateway.native.DEFAULT_PORT", server.port)
    assert await connect(Names({"escalus.example": [server.host]}, srv)) == server


async def test_a_domain_that_resolves_to_nothing_is_not_found():
    with pytest.raises(NativeFailed, match="does not exist in DNS") as failed:
        await connect(Names())
    assert failed.value.resolved is False


async def test_a_domain_that_offers_no_service_is_not_found():
    names = Names({"escalus.example": ["127.0.0.1"]}, ServiceNotOffered("no service"))
    with pytest.raises(NativeFailed, match="no s2s service") as failed:
        await connect(names)
    assert failed.value.resolved is False


async def test_a_refused_connection_is_resolved_but_not_connected(closed_port):
    names = Names({"a.example": ["127.0.0.1"]}, [("a.example", closed_port)])
    with pytest.raises(
        NativeFailed, match=f"127.0.0.1:{closed_port}: Connection refused"
    ) as failed:
        await connect(names)
    assert failed.value.resolved is True


async def test_an_address_the_policy_forbids_is_not_connected_to(server):
    names = Names({"a.example": [server.host]}, [("a.example", server.port)])
    with pytest.raises(NativeFailed, match="loopback") as failed:
        await connect(names, policy=AddressPolicy())
    assert failed.value.resolved is True


async def test_a_silent_target_does_not_take_the_time_of_the_next(server, monkeypatch):
    monkeypatch.setattr("workers.gateway.native._MIN_ATTEMPT_SECONDS", 0.05)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        names = Names(
            {"a.example": ["127.0.0.1"], "b.example": [server.host]},
            [("a.example", full.getsockname()[1]), ("b.example", server.port)],
        )
        assert await connect(names, timeout=0.4) == server
        for filler in fillers:
            filler.close()


async def test_a_resolver_that_hangs_ends_with_the_timeout():
    names = Names()
    names.srv = lambda *_: asyncio.get_running_loop().create_future()
    with pytest.raises(NativeFailed, match=r"within 0\.05 s") as failed:
        await connect(names, timeout=0.05)
    assert failed.value.resolved is False


async def test_we_never_connect_to_our_own_listener(server):
    names = Names({"a.example": [server.host]}, [("a.example", server.port)])
    with pytest.raises(NativeFailed, match="this gateway itself"):
        await connect(names, own=[server])


@pytest.mark.parametrize(
    ("address", "listening", "expected"),
    [
        ("127.0.0.1:5271", "127.0.0.1:5271", True),
        ("::ffff:127.0.0.1:5271", "127.0.0.1:5271", True),
        ("127.0.0.1:5271", "0.0.0.0:5271", True),
        ("127.0.0.1:5271", "localhost:5271", True),
        ("::1:5271", ":::5271", True),
        ("127.0.0.1:5269", "127.0.0.1:5271", False),
        ("127.0.0.2:5271", "127.0.0.1:5271", False),
        ("192.0.2.7:5271", "0.0.0.0:5271", False),
    ],
)
def test_own_addresses_are_recognised(address, listening, expected):
    def split(text):
        host, _, port = text.rpartition(":")
        return Address(host, int(port))

    assert is_own(split(address), [split(listening)]) is expected


class Spliced:
    """local server <-> splice <-> native server; the ends are streams, as the servers see them."""

    async def open(self, early=b""):
        here, near = tcp_pair()
        far, there = tcp_pair()
        here.send(early)
        self.splice = await splice(near, far)
        self.local = await asyncio.open_connection(sock=here)
        self.remote = await asyncio.open_connection(sock=there)
        return self

    async def close(self):
        for _, writer in (self.local, self.remote):
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        async with asyncio.timeout(5):
            await self.splice.wait_closed()


@pytest.fixture
async def spliced():
    ends = await Spliced().open(early=b"<stream:stream>")
    yield ends
    await ends.close()


async def test_bytes_that_waited_in_the_socket_come_first(spliced):
    spliced.local[1].write(b"<starttls/>")
    assert await spliced.remote[0].readexactly(26) == b"<stream:stream><starttls/>"
    spliced.remote[1].write(b"<proceed/>")
    assert await spliced.local[0].readexactly(10) == b"<proceed/>"
    assert (spliced.splice.bytes_out, spliced.splice.bytes_in) == (26, 10)


async def test_a_half_close_leaves_the_other_direction_open(spliced):
    spliced.local[1].write_eof()
    assert await spliced.remote[0].read() == b"<stream:stream>"
    spliced.remote[1].write(b"</stream:stream>")
    await asyncio.sleep(0)
    spliced.remote[1].write_eof()
    assert await spliced.local[0].read() == b"</stream:stream>"
    await spliced.splice.wait_closed()


async def test_silence_after_a_half_close_is_not_waited_for_for_ever(spliced, monkeypatch):
    monkeypatch.setattr("workers.gateway.native._HALF_CLOSE_TIMEOUT", 0.01)
    spliced.local[1].write_eof()
    await spliced.splice.wait_closed()
    assert await spliced.local[0].read() == b""


async def test_when_one_side_breaks_the_other_gets_the_rest_and_an_end(spliced):
    spliced.local[1].write(b"last words")
    assert await spliced.remote[0].readexactly(25) == b"<stream:stream>last words"
    reset(spliced.local[1])
    assert await spliced.remote[0].read() == b""
    await spliced.splice.wait_closed()


async def test_a_slow_reader_stops_the_fast_writer(spliced):
    block = b"x" * 1_000_000
    written = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            for _ in range(100):
                spliced.local[1].write(block)
                await asyncio.wait_for(spliced.local[1].drain(), 0.1)
                written += len(block)
    # Kernel buffers and our own hold some megabytes, never what the writer would send.
    assert spliced.splice.bytes_out < 30_000_000
    total = 0
    while total < written:
        total += len(await spliced.remote[0].read(1 << 20))
    assert total >= written
    reset(spliced.local[1])


async def test_close_flushes_and_abort_cuts(spliced):
    spliced.splice.close()
    assert await spliced.remote[0].read() == b"<stream:stream>"
    await spliced.splice.wait_closed()
    other = await Spliced().open()
    other.splice.abort()
    await other.splice.wait_closed()
    await other.close()


async def test_a_side_that_broke_before_the_splice_ends_it():
    here, near = tcp_pair()
    far, there = tcp_pair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    here.close()
    with contextlib.suppress(OSError):
        await (await splice(near, far)).wait_closed()
    reader, writer = await asyncio.open_connection(sock=there)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_random_resets_leave_nothing_open_and_nothing_raised():
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    noise = random.Random(7)
    for _ in range(60):
        ends = await Spliced().open(early=noise.randbytes(noise.choice([0, 100000])))
        for turn in range(noise.randrange(12)):
            for _, writer in (ends.local, ends.remote):
                if noise.random() < 0.15 and not writer.is_closing():
                    reset(writer) if noise.random() < 0.5 else writer.write_eof()
                elif turn % 2 and not writer.is_closing() and writer.can_write_eof():
                    with contextlib.suppress(RuntimeError):  # after write_eof
                        writer.write(noise.randbytes(50000))
            await asyncio.sleep(0)
        for _, writer in (ends.local, ends.remote):
            reset(writer)
        async with asyncio.timeout(10):
            await ends.splice.wait_closed()
    assert errors == []


async def test_a_thousand_splices_are_cheap():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = resource.getrusage(resource.RUSAGE_SELF)
    ends = []
    for _ in range(1000):
        here, near = tcp_pair()
        far, there = tcp_pair()
        ends.append((await splice(near, far), here, there))
    for _, here, there in ends:
        here.send(b"ping")
        there.close()
        here.close()
    for pair, _, _ in ends:
        await pair.wait_closed()
    after = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert after.ru_utime - before.ru_utime < 3.0  # seconds of CPU; about 0.3 on one 2020s core
    assert after.ru_maxrss - before.ru_maxrss < 40_000  # KiB: 40 a splice


def reset(writer):
    if writer.transport.is_closing():
        return
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.fixture
def header_waiting():
    """The local server's connection with its header unread, and one to a remote server."""
    server_end, local = tcp_pair()
    remote, remote_server = tcp_pair()
    server_end.sendall(b"<stream:stream>")
    yield server_end, local, remote, remote_server
    for sock in (server_end, local, remote, remote_server):
        sock.close()


async def test_the_header_is_passed_on_once_when_the_server_answers(header_waiting):
    server_end, local, remote, remote_server = header_waiting
    loop = asyncio.get_running_loop()
    greeting = asyncio.create_task(greet(local, remote))
    assert await loop.sock_recv(remote_server, 100) == b"<stream:stream>"
    await loop.sock_sendall(remote_server, b"<stream:stream id='1'>")
    await greeting
    pair = await splice(local, remote)
    assert await loop.sock_recv(server_end, 100) == b"<stream:stream id='1'>"
    await loop.sock_sendall(server_end, b"<starttls/>")
    assert await loop.sock_recv(remote_server, 100) == b"<starttls/>"
    pair.abort()


async def test_a_silent_server_is_given_up_with_the_header_still_there(header_waiting):
    _, local, remote, _ = header_waiting
    with pytest.raises(NativeFailed, match=r"no answer within 0\.05 s") as failed:
        await greet(local, remote, timeout=0.05)
    assert failed.value.resolved
    assert local.recv(100) == b"<stream:stream>"


async def test_a_server_that_hangs_up_is_given_up(header_waiting):
    _, local, remote, remote_server = header_waiting
    remote_server.close()
    with pytest.raises(NativeFailed) as failed:
        await greet(local, remote)
    assert failed.value.resolved
    assert local.recv(100) == b"<stream:stream>"
