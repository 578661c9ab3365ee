"""The played peers against each other: what they do to a gateway is what they say here."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from loadtest.stage.addresses import Addresses
from loadtest.stage.authority import TestAuthority
from loadtest.stage.peers import PeerTubePeer, XmppProxyPeer
from loadtest.stage.wire import WireClosed, dial, tls_context


@pytest_asyncio.fixture
async def proxies(tmp_path: Path) -> AsyncIterator[tuple[XmppProxyPeer, XmppProxyPeer]]:
    addresses, authority = Addresses(), TestAuthority(tmp_path)
    peers = tuple(
        XmppProxyPeer(domain, addresses.of(number), authority.issue(domain))
        for number, domain in ((1, "one.example"), (2, "two.example"))
    )
    for peer in peers:
        await peer.start()
    yield peers[0], peers[1]
    for peer in peers:
        await peer.stop()
    addresses.release()


@pytest_asyncio.fixture
async def instances(tmp_path: Path) -> AsyncIterator[tuple[PeerTubePeer, PeerTubePeer]]:
    addresses, authority = Addresses(), TestAuthority(tmp_path)
    peers = tuple(
        PeerTubePeer(domain, addresses.of(number), authority.issue(domain))
        for number, domain in ((1, "one.example"), (2, "two.example"))
    )
    for peer in peers:
        # Only a front that re-frames makes their frames legal for a strict server.
        peer.masks = True
        await peer.start()
        for other in peers:
            peer.introduce(other.domain, other.url, other.address)
    yield peers[0], peers[1]
    for peer in peers:
        await peer.stop()
    addresses.release()


async def test_xmpp_proxy_authenticates_by_a_server_certificate_and_counts(
    proxies: tuple[XmppProxyPeer, XmppProxyPeer],
) -> None:
    one, two = proxies
    wire = await one.connect(two.url, two.address, two.domain)
    for number in range(3):
        one.send(wire, f"<message from='a@one.example' to='b@two.example' id='m{number}'/>")
    assert await one.acknowledged(wire) == 3
    assert "id='m2'" in await two.next_stanza("id='m2'")


async def test_xmpp_proxy_drops_who_shows_no_certificate_without_a_word(
    proxies: tuple[XmppProxyPeer, XmppProxyPeer],
) -> None:
    one, two = proxies
    wire = await dial(two.url, two.address, tls_context(None))
    wire.send(f"<open from='{one.domain}' to='{two.domain}'/>")
    with pytest.raises(WireClosed) as closed:
        await wire.receive()
    assert closed.value.code == 1006


async def test_peertube_verifies_the_key_on_another_websocket(
    instances: tuple[PeerTubePeer, PeerTubePeer],
) -> None:
    one, two = instances
    wire = await one.connect(two.url, two.address, two.domain)
    assert one.verified == [(two.domain, "valid")]
    one.ping(wire)
    one.say(wire, "<message from='a@one.example' to='b@two.example' id='m1'/>")
    await two.next_stanza("id='m1'")


async def test_a_key_of_another_secret_is_not_valid(
    instances: tuple[PeerTubePeer, PeerTubePeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = instances
    monkeypatch.setattr(one, "dialback_key", lambda *_: "0" * 64)
    keys = iter(["0" * 64, "1" * 64])
    monkeypatch.setattr(one, "dialback_key", lambda *_: next(keys))
    with pytest.raises(WireClosed, match="invalid"):
        await one.connect(two.url, two.address, two.domain)
