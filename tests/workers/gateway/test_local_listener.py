"""The local port: accept, peek, hand on, serve, splice or answer; no socket is left behind."""

import asyncio
import errno
import socket
from pathlib import Path
from typing import Any

import pytest

from coordinator.routes import DomainPair, Route
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import LOCAL, REMOTE, message, on_quiet_loop, until
from workers.gateway import local_listener
from workers.gateway.hop import barrier_tag
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
async def test_the_session_is_open_before_the_header_is_answered(gateway: GatewayScene) -> None:
    await gateway.start()
    reader = await say(gateway, header())
    answer = await reader.readuntil(b"</stream:features>")
    assert gateway.remote.sessions[0].stream.pairs
    assert b"<starttls" in answer and f"from='{REMOTE}'".encode() in answer
    assert gateway.listener.routes == 1
    reader._kept.close()  # type: ignore[attr-defined]
    await until(lambda: not gateway.listener.sources)


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
async def test_without_a_certificate_the_stream_is_closed_and_the_route_given_back(
    gateway: GatewayScene,
) -> None:
    await gateway.start(remote={"block": True})
    gateway.control.is_away = True
    assert await read_all(await say(gateway, header())) == b""
    assert gateway.listener.routes == 0
    await until(lambda: gateway.control.released == [PAIR])


@on_quiet_loop
async def test_a_bug_on_the_way_closes_the_socket(gateway: GatewayScene) -> None:
    await gateway.start()

    async def broken(pair: DomainPair) -> Route:
        raise KeyError("a bug")

    gateway.control.acquire = broken  # type: ignore[method-assign]
    assert await read_all(await say(gateway, header())) == b""


@on_quiet_loop
async def test_a_native_domain_gets_the_untouched_bytes(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b">"))
        writer.write(b"answered")
        await writer.drain()
        writer.close()

    native = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = native.sockets[0].getsockname()[1]

    async def connect_native(*_: Any, **__: Any) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return sock

    monkeypatch.setattr(local_listener, "connect_native", connect_native)
    gateway.remote.external, gateway.remote.outcome = False, "invalid"
    await gateway.start()
    reader = await say(gateway, header())
    assert await reader.readexactly(8) == b"answered"
    assert got == [header()]
    assert await read_all(reader) == b""
    await until(lambda: not gateway.listener.splices and gateway.control.released == [PAIR])
    assert (await gateway.discovery.find(REMOTE)).source == "config"
    native.close()


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
    assert taken == [{"pair": list(PAIR), "said": header()}]
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
async def test_a_pair_that_another_worker_owns_now_ends_here_in_order(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    gateway.control.on_route_lost(PAIR, Route("gw/w2.1", 2))
    await until(lambda: peer.ended)
    assert peer.ended == ["closed"]
    assert gateway.control.released == []


@on_quiet_loop
async def test_a_stream_handed_to_us_is_served(gateway: GatewayScene) -> None:
    await gateway.start()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    gateway.listener._on_socket(theirs, {"nonsense": 1})
    assert await asyncio.get_running_loop().sock_recv(_nonblocking(ours), 10) == b""
    ours.close()
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    accepted.setblocking(False)
    client.sendall(header())
    gateway.listener._on_socket(accepted, {"pair": list(PAIR)})
    answer = await asyncio.get_running_loop().sock_recv(_nonblocking(client), 100)
    assert answer.startswith(b"<?xml")
    client.close()
    listener.close()


def _nonblocking(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


@on_quiet_loop
async def test_accepting_goes_on_after_an_error(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_listener, "ACCEPT_RETRY", 0.01)
    await gateway.start()
    gateway.listener.stop()
    await until(lambda: all(task.done() for task in gateway.listener._accepting))
    sock = socket.create_server(("127.0.0.1", 0))
    gateway.local_port = sock.getsockname()[1]
    loop = asyncio.get_running_loop()
    errors = [OSError(errno.EMFILE, "too many open files")]

    class Loop:
        async def sock_accept(self, listening: socket.socket) -> Any:
            if errors:
                raise errors.pop()
            return await loop.sock_accept(listening)

    monkeypatch.setattr(local_listener.asyncio, "get_running_loop", Loop)
    gateway.listener.start([sock])
    await asyncio.sleep(0)
    monkeypatch.undo()
    peer = await gateway.open_local()
    assert not errors
    peer.send(message("1"))
    await until(lambda: gateway.remote.got)


@on_quiet_loop
async def test_a_listener_that_stops_closes_its_port(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.listener.stop()
    await until(lambda: gateway.local_socket.fileno() == -1)
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", gateway.local_port)


@on_quiet_loop
async def test_a_barrier_that_is_not_ours_is_told_to_the_siblings(
    gateway: GatewayScene, tmp_path: Path
) -> None:
    await gateway.start()
    other = Siblings(tmp_path / "run", "gw/w2.1")
    heard: list[dict[str, Any]] = []
    other.on_message = heard.append
    await other.start()
    gateway.control.workers.append("gw/w2.1")
    gateway.control.workers.append("gw/w3.1")  # away: nothing happens
    token = f"{barrier_tag('gw/w2.1')}.1"
    assert gateway.listener.barrier_answered(PAIR, token)
    assert gateway.listener.barrier_answered(PAIR, f"{barrier_tag('gw/w3.1')}.1")
    for unknown in ("a token", f"{barrier_tag('gw/w4.1')}.1", f"{gateway.router.barrier_tag}.1"):
        assert not gateway.listener.barrier_answered(PAIR, unknown)
    await until(lambda: heard)
    assert heard == [{"barrier": token, "pair": list(PAIR)}]
    gateway.listener._on_message(heard[0])
    gateway.listener._on_message({"what": "is this"})
    await other.close()
