"""Streams served here: splice or answer; what ends, and what siblings tell."""

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest

from coordinator.routes import Route
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import LOCAL, REMOTE, on_quiet_loop, until
from workers.gateway import herd as herd_module
from workers.gateway import local_listener
from workers.gateway.asking import barrier_tag
from workers.gateway.herd import Key
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
async def test_without_a_certificate_the_stream_is_closed_and_the_route_given_back(
    gateway: GatewayScene,
) -> None:
    await gateway.start(remote={"block": True})
    gateway.control.is_away = True
    assert await read_all(await say(gateway, header())) == b""
    assert gateway.listener.routes == 0
    await until(lambda: gateway.control.released == [PAIR])


@on_quiet_loop
@pytest.mark.parametrize("has_turn", [True, False])
async def test_a_native_domain_gets_the_untouched_bytes(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch, has_turn: bool
) -> None:
    """It is known to be native only when its wss session was tried."""
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
    await gateway.start(connect_timeout=5.0 if has_turn else 0.2)
    monkeypatch.setattr(herd_module, "HURRIED_TURN", 60.0)
    marked: list[str] = []
    monkeypatch.setattr(gateway.discovery, "mark_native", marked.append)
    async with contextlib.AsyncExitStack() as others:
        herd = gateway.remote_connector.herd
        for number in range(0 if has_turn else herd.limit):
            key = Key(f"site{number}", f"network{number}")
            await others.enter_async_context(herd.turn(key, urgent=False))
        reader = await say(gateway, header())
        assert await reader.readexactly(8) == b"answered"
    assert got == [header()] and marked == ([REMOTE] if has_turn else [])
    assert await read_all(reader) == b""
    await until(lambda: not gateway.listener.splices and gateway.control.released == [PAIR])
    assert (await gateway.discovery.find(REMOTE)).source == "config"
    native.close()


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


# Pairs go.


@on_quiet_loop
async def test_a_lost_pair_lets_its_session_go_when_its_streams_have_ended(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    del gateway.control.routes[PAIR]
    gateway.control.on_route_lost(PAIR, Route("gw/w2.1", 2))
    await until(lambda: peer.ended and not gateway.router.has_remote(PAIR))
    assert not gateway.listener.is_used(PAIR) and gateway.control.released == []


@on_quiet_loop
async def test_what_another_worker_waits_for_goes_at_once_when_we_drain(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    gateway.listener._on_message({"wanted": list(PAIR), "by": "gw/w2.1"})  # but we do not drain
    await asyncio.sleep(0.05)
    assert not peer.ended
    gateway.control.draining = True
    gateway.listener._on_message({"wanted": list(PAIR), "by": "gw/w2.1"})
    await until(lambda: peer.ended and gateway.control.released == [PAIR])


@on_quiet_loop
async def test_a_draining_sibling_is_told_what_is_waited_for(
    gateway: GatewayScene, tmp_path: Path
) -> None:
    await gateway.start()
    other = Siblings(tmp_path / "run", "gw/w2.1")
    heard: list[dict[str, Any]] = []
    other.on_message = heard.append
    await other.start()
    gateway.control.on_wait(PAIR, "gw2/w1.1")  # of another machine: it hears nothing
    gateway.control.on_wait(PAIR, "gw/w2.1")
    await until(lambda: heard)
    assert heard == [{"wanted": list(PAIR), "by": "gw/w1.1"}]
    await other.close()


@on_quiet_loop
async def test_siblings_hear_at_once_who_drains(gateway: GatewayScene, tmp_path: Path) -> None:
    await gateway.start()
    other = Siblings(tmp_path / "run", "gw/w2.1")
    heard: list[dict[str, Any]] = []
    other.on_message = heard.append
    await other.start()
    gateway.control.workers += ["gw/w2.1", "far/w1.1"]
    await gateway.listener.tell_draining()
    await until(lambda: heard)
    assert heard == [{"draining": "gw/w1.1"}]
    gateway.listener._on_message({"draining": "gw/w2.1"})
    assert gateway.control.workers == ["gw/w1.1", "far/w1.1"]
    await other.close()
