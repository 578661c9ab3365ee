"""Sessions we open to remote domains: targets in turn, certificates, and what is refused."""

import asyncio

import pytest

from tests.workers.gateway.gateway_bench import PAIR, GatewayScene, Peer
from tests.workers.gateway.session_bench import LOCAL, REMOTE, on_quiet_loop, until
from workers.gateway.failure import HopFailed
from workers.gateway.herd import key_for
from workers.gateway.hostmeta import parse_url
from workers.gateway.remote_connector import origin_of


@on_quiet_loop
async def test_a_session_is_authenticated_by_our_certificate(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = Peer()
    session = await gateway.remote_connector.connect(LOCAL, REMOTE, peer)
    assert session.owner is peer
    assert session.stream.authenticated_by == "external"  # type: ignore[attr-defined]
    assert len(gateway.remote.chains[0]) >= 1
    session.close()
    await until(lambda: peer.ended)


@on_quiet_loop
async def test_external_is_not_used_where_it_is_not_allowed(gateway: GatewayScene) -> None:
    await gateway.start(remote={"auth": ("dialback",)})
    session = await gateway.remote_connector.connect(LOCAL, REMOTE, Peer())
    assert session.stream.authenticated_by == "dialback"  # type: ignore[attr-defined]
    session.close()
    await until(lambda: session.ended)


@on_quiet_loop
async def test_a_certificate_for_another_domain_is_refused(gateway: GatewayScene) -> None:
    gateway.remote_pair = gateway.local_pair
    await gateway.start()
    with pytest.raises(HopFailed, match="certificate") as caught:
        await gateway.remote_connector.connect(LOCAL, REMOTE, Peer())
    assert caught.value.resolved
    assert not gateway.remote.sessions


@on_quiet_loop
async def test_a_blocked_domain_is_not_connected(gateway: GatewayScene) -> None:
    await gateway.start(remote={"block": True})
    with pytest.raises(HopFailed):
        await gateway.remote_connector.connect(LOCAL, REMOTE, Peer())
    assert not gateway.remote.sessions


@on_quiet_loop
async def test_a_domain_without_targets_is_not_found(gateway: GatewayScene) -> None:
    await gateway.start()
    with pytest.raises(HopFailed) as caught:
        await gateway.remote_connector.connect(LOCAL, "gone.example", Peer())
    assert not caught.value.resolved


@on_quiet_loop
async def test_a_port_where_nobody_listens_is_a_failure(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.remote._server.close()
    with pytest.raises(HopFailed, match="cannot connect"):
        await gateway.remote_connector.connect(LOCAL, REMOTE, Peer())


@on_quiet_loop
async def test_who_waits_for_a_turn_is_held_back_until_it_comes(gateway: GatewayScene) -> None:
    await gateway.start(connects=1)
    connector = gateway.remote_connector
    async with connector.herd.turn(key_for("other.example", "192.0.2.1"), urgent=True):
        connecting = asyncio.create_task(connector.connect(LOCAL, REMOTE, Peer()))
        await until(lambda: connector.herd.waiting == 1)
        assert connector.held_back == {PAIR} and gateway.router.is_held_back(PAIR)
    session = await connecting
    assert not connector.held_back and connector.herd.running == 0
    session.close()
    await until(lambda: session.ended)


def test_our_origin_is_the_targets_own() -> None:
    assert origin_of(parse_url("wss://gw.example/x")) == "https://gw.example"
    assert origin_of(parse_url("wss://gw.example:8443/x")) == "https://gw.example:8443"
