"""Streams we open to the local server in the name of remote domains."""

from dataclasses import replace

import pytest

from tests.workers.gateway.gateway_bench import GatewayScene, Peer
from tests.workers.gateway.session_bench import LOCAL, REMOTE, on_quiet_loop, until
from workers.gateway.failure import HopFailed
from workers.gateway.local_connector import LocalConnector
from workers.gateway.tls import LeafContexts, server_context


@on_quiet_loop
async def test_the_local_server_sees_a_certificate_for_the_remote_domain(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    session = await gateway.local_connector.connect(LOCAL, REMOTE, Peer())
    (chain,) = gateway.local.chains
    assert f"DNSName(value='{REMOTE}')" in str(chain[0].extensions)
    session.close()
    await until(lambda: session.ended)


@on_quiet_loop
async def test_a_process_that_poses_as_the_local_server_is_left(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.local.tls = server_context(gateway.remote_pair)
    with pytest.raises(HopFailed, match="not recognised"):
        await gateway.local_connector.connect(LOCAL, REMOTE, Peer())
    await until(lambda: gateway.local.ended)
    assert not gateway.local.sessions[0].stream.pairs


@on_quiet_loop
async def test_a_local_server_without_tls_is_refused(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.local.tls = None
    with pytest.raises(HopFailed, match="STARTTLS"):
        await gateway.local_connector.connect(LOCAL, REMOTE, Peer())


@on_quiet_loop
async def test_a_local_server_that_is_away_is_a_timeout_not_a_missing_domain(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    gateway.local._server.close()
    with pytest.raises(HopFailed, match="does not answer") as caught:
        await gateway.local_connector.connect(LOCAL, REMOTE, Peer())
    assert caught.value.resolved


@on_quiet_loop
async def test_without_a_certificate_there_is_no_stream(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.control.is_away = True
    with pytest.raises(HopFailed, match="away"):
        await gateway.local_connector.connect(LOCAL, REMOTE, Peer())
    assert not gateway.local.sessions


@on_quiet_loop
async def test_each_domain_may_have_a_server_of_its_own(gateway: GatewayScene) -> None:
    await gateway.start()
    servers = {LOCAL: "127.0.0.1:1", "*": "127.0.0.1:2"}
    config = replace(gateway.config, local=replace(gateway.config.local, server=servers))
    connector = LocalConnector(config, gateway.control, LeafContexts(), gateway.trust)
    for local, address in ((LOCAL, "127.0.0.1:1"), ("other.example", "127.0.0.1:2")):
        with pytest.raises(HopFailed, match=f"local server at {address} does not answer"):
            await connector.connect(local, REMOTE, Peer())
