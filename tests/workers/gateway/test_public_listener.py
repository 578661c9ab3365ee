"""The public side: what is shown of sessions, what is remembered of failures, and stopping."""

import asyncio
import gc
from dataclasses import replace

import pytest
from websockets.server import ServerProtocol

from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import LOCAL, REMOTE, message, on_quiet_loop, until
from workers.gateway.failure import HopFailed
from workers.gateway.public_listener import new_stream_id
from workers.gateway.websocket_accept import AcceptedWebSocket
from workers.gateway.websocket_connect import WebSocketFailed
from workers.gateway.websocket_session import WebSocketSession


@on_quiet_loop
async def test_only_authenticated_sessions_are_shown(gateway: GatewayScene) -> None:
    await gateway.start()
    unproved = await gateway.open_remote(known=False, verify_only=True)
    peer = await gateway.open_remote()
    (shown,) = gateway.public.describe()
    assert shown["domain_pairs"] == [list(PAIR)]
    assert (shown["direction"], shown["state"]) == ("inbound", "established")
    assert shown["peer"].startswith("127.0.0.1:") and shown["tls"].startswith("TLSv1.3")
    for each in (unproved, peer):
        each.session.close()
    await until(lambda: not gateway.public.sources)
    # The proved one has ended as sessions do; only the other is worth a line.
    assert [error["domain"] for error in gateway.public.errors] == [REMOTE]


@on_quiet_loop
async def test_a_stranger_in_our_own_name_is_refused_and_leaves_one_line(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    with pytest.raises(HopFailed, match="is served by this host"):
        await gateway.open_remote(sender="capulet.example")
    await until(lambda: not gateway.public.sources)
    assert len(gateway.public.errors) == 1


@on_quiet_loop
async def test_after_stop_nobody_gets_in_and_sessions_go_on(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_remote()
    gateway.public.stop()
    with pytest.raises(WebSocketFailed):
        await gateway.open_remote()
    assert not peer.ended


def test_stream_ids_are_unpredictable() -> None:
    ids = {new_stream_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(id) > 20 for id in ids)


@on_quiet_loop
async def test_strangers_may_say_little_and_be_few(gateway: GatewayScene) -> None:
    await gateway.start(unauthenticated_per_address=2)
    strangers = [await gateway.open_remote(known=False, verify_only=True) for _ in "ab"]
    with pytest.raises(WebSocketFailed):
        await gateway.open_remote(known=False, verify_only=True)
    session = strangers[0].session
    assert isinstance(session, WebSocketSession)
    session.websocket.send_messages([b"<x xmlns='jabber:server'>" + b"x" * 20_000])
    await until(lambda: strangers[0].ended)
    assert "1009" in strangers[0].ended[0]
    session.channel.abort()
    await until(lambda: len(gateway.public.admission.strangers) == 1)
    assert gateway.public.refusals.counts == {"strangers-of-address": 1}
    peers = [await gateway.open_remote() for _ in range(3)]  # who is known takes no place
    large = message("1", sender=REMOTE, target=LOCAL, body="x" * 100_000)
    peers[2].send(large)
    await until(lambda: gateway.local.got)


@on_quiet_loop
async def test_nothing_of_the_handshake_is_kept_with_the_session(gateway: GatewayScene) -> None:
    await gateway.start()
    await gateway.open_remote()
    (source,) = gateway.public.sources
    websocket = source.session.websocket
    assert isinstance(websocket, AcceptedWebSocket)
    assert websocket.request is None
    held = gc.get_referents(websocket)
    assert not [each for each in held if isinstance(each, ServerProtocol | asyncio.TimerHandle)]


@on_quiet_loop
async def test_new_limits_hold_for_sessions_that_open_from_then_on(gateway: GatewayScene) -> None:
    await gateway.start()
    before = await gateway.open_remote()
    config = gateway.public.config
    config.become(replace(config, limits=replace(config.limits, stanza_bytes=20_000)))
    gateway.public.reload()
    after = await gateway.open_remote()
    limits = [each.session.stream.peer_max_bytes for each in (before, after)]
    assert limits[1] == 20_000 != limits[0]
    assert not before.ended
