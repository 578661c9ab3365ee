"""The local port: accept, peek, hand on; no socket is left behind."""

import asyncio
import errno
import socket
from pathlib import Path
from typing import Any

import pytest

from coordinator.routes import DomainPair, Route, Serve, SpliceTo
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import LOCAL, REMOTE, message, on_quiet_loop, until
from workers.gateway import arrivals
from workers.gateway.siblings import Siblings


def header(local: str = LOCAL, remote: str = REMOTE) -> bytes:
    return (
        f"<stream:stream from='{local}' to='{remote}' version='1.0' xmlns='jabber:server' "
        "xmlns:stream='http://etherx.jabber.org/streams'>"
    ).encode()


async def say(gateway: GatewayScene, data: bytes) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.local_port)
    writer.write(data)
    reader._kept = writer  # type: ignore[attr-defined]
    return reader


async def read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        data = await reader.read()
    finally:
        reader._kept.close()  # type: ignore[attr-defined]
    return data


@on_quiet_loop
async def test_what_is_no_stream_is_closed(gateway: GatewayScene) -> None:
    await gateway.start()
    assert await read_all(await say(gateway, b"GET / HTTP/1.1\r\n\r\n")) == b""
    assert gateway.listener.routes == 0


@on_quiet_loop
async def test_a_stream_of_another_domain_that_cannot_be_passed_through_is_closed(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    assert await read_all(await say(gateway, header("other.example", "gone.example"))) == b""
    assert gateway.listener.routes == 0


@on_quiet_loop
async def test_a_bug_on_the_way_closes_the_socket(gateway: GatewayScene) -> None:
    await gateway.start()

    async def broken(pair: DomainPair, **how: object) -> Serve:
        raise KeyError("a bug")

    gateway.control.place = broken  # type: ignore[method-assign]
    assert await read_all(await say(gateway, header())) == b""


@on_quiet_loop
async def test_a_stream_is_handed_to_the_worker_that_owns_its_pair(
    gateway: GatewayScene, tmp_path: Path
) -> None:
    await gateway.start()
    other = Siblings(tmp_path / "run", "gw/w2.1")
    taken: list[dict[str, Any]] = []

    def on_socket(sock: socket.socket, info: dict[str, Any]) -> None:
        taken.append({**info, "said": sock.recv(1000)})
        sock.close()

    other.on_socket = on_socket
    await other.start()
    gateway.control.routes[PAIR] = Route("gw/w2.1", 1)
    assert await read_all(await say(gateway, header())) == b""
    assert taken == [{"pair": list(PAIR), "passed": 1, "from_gateway": False, "said": header()}]
    assert gateway.listener.routes == 0
    await other.close()


@on_quiet_loop
async def test_an_owner_that_does_not_answer_is_doubted_and_the_pair_taken(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    gateway.control.workers.append("gw/w2.1")
    gateway.control.routes[PAIR] = Route("gw/w2.1", 1)
    await gateway.open_local()
    assert gateway.control.workers == ["gw/w1.1"]
    assert gateway.control.routes[PAIR].owner == "gw/w1.1"


@on_quiet_loop
async def test_a_stream_handed_to_us_is_served(gateway: GatewayScene) -> None:
    await gateway.start()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    gateway.listener._arrivals._on_socket(theirs, {"nonsense": 1})
    assert await asyncio.get_running_loop().sock_recv(_nonblocking(ours), 10) == b""
    ours.close()
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    accepted.setblocking(False)
    client.sendall(header())
    gateway.listener._arrivals._on_socket(
        accepted, {"pair": list(PAIR), "passed": 2, "from_gateway": True}
    )
    answer = await asyncio.get_running_loop().sock_recv(_nonblocking(client), 100)
    assert answer.startswith(b"<?xml")
    assert gateway.control.asked == [(PAIR, 2, True)]
    client.close()
    listener.close()


def _nonblocking(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


class Exhausted(socket.socket):
    """Out of descriptors, once."""

    is_full = True

    def accept(self) -> Any:
        if self.is_full:
            self.is_full = False
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


@on_quiet_loop
async def test_accepting_goes_on_after_an_error(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "ACCEPT_RETRY", 0.01)
    await gateway.start()
    gateway.listener.stop()
    sock = Exhausted()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    gateway.local_port = sock.getsockname()[1]
    gateway.listener.start([sock])
    peer = await gateway.open_local()
    assert not sock.is_full
    peer.send(message("1"))
    await until(lambda: gateway.remote.got)


@on_quiet_loop
async def test_a_stream_on_its_way_is_not_left_behind_by_a_drain(gateway: GatewayScene) -> None:
    await gateway.start()
    found = asyncio.Event()
    place = gateway.control.place

    async def slow(pair: DomainPair, **how: Any) -> Any:
        await found.wait()
        return await place(pair, **how)

    gateway.control.place = slow  # type: ignore[method-assign]
    reader = await say(gateway, header())
    await until(lambda: gateway.listener.are_arriving)
    gateway.listener.stop()
    found.set()
    assert b"<starttls" in await reader.readuntil(b"</stream:features>")
    assert not gateway.listener.are_arriving
    reader._kept.close()  # type: ignore[attr-defined]
    await until(lambda: not gateway.listener.sources)


@on_quiet_loop
async def test_a_listener_that_stops_closes_its_port(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.listener.stop()
    await until(lambda: gateway.local_socket.fileno() == -1)
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", gateway.local_port)


@on_quiet_loop
async def test_a_withdrawn_stream_makes_us_look_who_owns_its_pair(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.siblings.on_withdrawn({"nonsense": 1})
    gateway.siblings.on_withdrawn({"pair": list(PAIR)})
    await until(lambda: gateway.control.verified == [PAIR])


# Other machines.


async def other_machine(got: list[bytes], answer: bytes) -> tuple[asyncio.Server, str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b">"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@on_quiet_loop
async def test_a_stream_is_spliced_to_the_machine_of_its_owner(gateway: GatewayScene) -> None:
    await gateway.start()
    got: list[bytes] = []
    server, address = await other_machine(got, b"answered")
    gateway.control.places[PAIR] = SpliceTo("far/w1.1", address)
    reader = await say(gateway, header())
    assert await reader.readexactly(8) == b"answered"
    assert got == [b"fedgate-splice far\n" + header()]
    shown = gateway.listener.describe()
    assert [(each["direction"], each["state"]) for each in shown] == [("to gateway", "spliced")]
    assert await read_all(reader) == b""
    await until(lambda: not gateway.listener.splices)
    server.close()


@on_quiet_loop
async def test_a_machine_that_hangs_up_is_doubted_and_the_pair_served_here(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    server, address = await other_machine([], b"")
    gateway.control.places[PAIR] = SpliceTo("far/w1.1", address)
    await gateway.open_local()
    assert gateway.control.places == {}
    gateway.control.places[PAIR] = SpliceTo("far/w1.1", address)
    server.close()
    await gateway.open_local()
    assert gateway.control.places == {}


@on_quiet_loop
async def test_a_stream_from_another_machine_is_served_as_its_first_line_says(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    reader = await say(gateway, b"fedgate-splice gw\n" + header())
    assert b"<starttls" in await reader.readuntil(b"</stream:features>")
    assert gateway.control.asked == [(PAIR, 0, True)]
    reader._kept.close()  # type: ignore[attr-defined]
    assert await read_all(await say(gateway, b"fedgate-splice gw2\n" + header())) == b""
    assert len(gateway.control.asked) == 1
    await until(lambda: not gateway.listener.sources)
