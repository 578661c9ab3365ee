"""Sessions we open to remote domains: targets in turn, certificates, and what is refused."""

import asyncio
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes

from tests.workers.gateway.gateway_bench import PAIR, GatewayScene, Peer
from tests.workers.gateway.https_server import HttpsServer, ok
from tests.workers.gateway.session_bench import LOCAL, REMOTE, on_quiet_loop, until
from tests.workers.gateway.x509_matrix import Leaf
from workers.gateway import expiry
from workers.gateway.certificates import load_pair
from workers.gateway.failure import HopFailed
from workers.gateway.herd import key_for
from workers.gateway.hostmeta import parse_url
from workers.gateway.posh import PATH
from workers.gateway.remote_connector import MAX_SEE_OTHER, origin_of


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
async def test_a_session_ends_when_the_servers_certificate_lapses(gateway: GatewayScene) -> None:
    end = datetime.now(UTC) + timedelta(seconds=2)
    issued = gateway.public_ca.issue(REMOTE, not_after=end)
    gateway.remote_pair = load_pair(issued.certificate, issued.key)
    await gateway.start(remote={"auth": ("dialback",)})  # it is the server's whatever we use
    peer = Peer()
    await gateway.remote_connector.connect(LOCAL, REMOTE, peer)
    await until(lambda: peer.ended)
    assert peer.ended == [expiry.REASON]
    assert "reset" in gateway.remote.ended[0]


@on_quiet_loop
async def test_a_certificate_that_the_domain_publishes_is_good(gateway: GatewayScene) -> None:
    """Asked only after it was refused, and connected once more then."""
    issued = gateway.public_ca.issue("hoster.example", self_signed=True)
    gateway.remote_pair = load_pair(issued.certificate, issued.key)
    await gateway.start()
    digest = b64encode(gateway.remote_pair.chain[0].fingerprint(hashes.SHA256())).decode()
    document = {"fingerprints": [{"sha-256": digest}], "expires": 600}
    web, site = HttpsServer(), load_pair(*gateway._files(REMOTE))
    gateway.dns.records[REMOTE, "A"] = ["127.0.77.9"]
    web.answers[REMOTE, PATH] = ok(document)
    await web.start("127.0.77.9", 443, Leaf(list(site.chain), site.key), gateway.directory)
    peer = Peer()
    for _ in range(2):
        session = await gateway.remote_connector.connect(LOCAL, REMOTE, peer)
        session.close()
    await until(lambda: len(peer.ended) == 2)
    assert web.asked == [f"{REMOTE}{PATH}"]
    await web.close()


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
async def test_another_uri_is_followed_but_not_in_circles(gateway: GatewayScene) -> None:
    await gateway.start()
    remote = gateway.remote
    remote.leads_to = remote.url
    with pytest.raises(HopFailed, match="see-other-uri leads round in circles"):
        await gateway.remote_connector.connect(LOCAL, REMOTE, Peer())
    assert len(remote.chains) == MAX_SEE_OTHER + 1
    remote.leads_to = remote.url.replace("wss:", "ws:")
    with pytest.raises(HopFailed, match="see-other-uri: "):
        await gateway.remote_connector.connect(LOCAL, REMOTE, Peer())
    assert len(remote.chains) == MAX_SEE_OTHER + 2


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
