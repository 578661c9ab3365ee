"""How gateways prove who they are to each other."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from loadtest.stage.gateway import Gateway
from loadtest.stage.peers import XmppProxyPeer
from loadtest.stage.stage import CAPULET, MONTAGUE, Stage
from loadtest.stage.users import User
from loadtest.stage.website import Website, host_meta
from loadtest.stage.wire import WireClosed
from tests.integration.conversation import talk, talk_again

DELEGATED = "delegated.example"
HOSTING = "hosting.example"


async def test_external_with_a_certificate_for_servers_only(
    stage: Stage, juliet: User, romeo: User
) -> None:
    for gateway in stage.gateways:
        pair = gateway.options["certificates"]["pairs"][0]
        leaf = x509.load_pem_x509_certificate(_read(pair["certificate"]))
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]

    await talk(juliet, romeo)
    for gateway, remote in ((stage.capulet_gateway, MONTAGUE), (stage.montague_gateway, CAPULET)):
        # One session may carry both directions: whoever opened it.
        assert await proofs(gateway, remote, "") == {"external"}


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


async def proofs(gateway: Gateway, remote: str, direction: str = "inbound") -> set[str]:
    """How the sessions with a remote domain were authenticated that it, or we, opened."""
    sessions: list[dict[str, Any]] = await gateway.wait_session(remote, direction)
    return {each["authenticated_by"] for each in sessions if each["direction"] != "local"}


@pytest_asyncio.fixture(loop_scope="session")
async def dialback_only(stage: Stage) -> AsyncIterator[Stage]:
    """montague's gateway accepts and offers nothing but dialback with capulet's domains."""
    gateway = stage.montague_gateway
    gateway.configure("remote", **{"*": {"auth": ["dialback"]}})
    await gateway.restart()
    yield stage
    gateway.configure("remote", **{"*": None})
    await gateway.restart()


async def test_dialback_over_websocket(dialback_only: Stage, juliet: User, romeo: User) -> None:
    await talk_again(juliet, romeo)
    gateway = dialback_only.montague_gateway
    assert await proofs(gateway, CAPULET) == {"dialback"}
    # What it may accept is also what it may use, though capulet's gateway offers EXTERNAL.
    assert await proofs(gateway, CAPULET, "outbound") == {"dialback"}


@pytest_asyncio.fixture(loop_scope="session")
async def delegated(stage: Stage) -> AsyncIterator[XmppProxyPeer]:
    """delegated.example's host-meta names hosting.example, whose certificate is all it shows."""
    hosting, site = stage.actor_address(110), stage.actor_address(111)
    peer = XmppProxyPeer(DELEGATED, hosting, stage.authority.issue(HOSTING), host=HOSTING)
    website = Website(site, stage.authority.issue(DELEGATED), host_meta(peer.url, hosting, HOSTING))
    stage.dns.set(DELEGATED, "A", site)
    stage.dns.set(HOSTING, "A", hosting)
    await peer.start()
    await website.start()
    yield peer
    await peer.stop()
    await website.stop()
    stage.dns.remove(DELEGATED)
    stage.dns.remove(HOSTING)


async def test_a_domain_delegated_through_host_meta(
    stage: Stage, delegated: XmppProxyPeer, juliet: User
) -> None:
    juliet.send(f"paris@{DELEGATED}", "to the delegated domain")
    await delegated.next_stanza("to the delegated domain")

    gateway = stage.capulet_gateway
    wire = await delegated.connect(f"wss://{CAPULET}/xmpp-s2s", gateway.address, CAPULET)
    delegated.send(
        wire,
        f"<message xmlns='jabber:server' from='paris@{DELEGATED}' to='{juliet.jid}' "
        "type='chat'><body>from the delegated domain</body></message>",
    )
    message = await juliet.message("from the delegated domain")
    assert message.sender == f"paris@{DELEGATED}"
    delegated.close(wire)


async def test_a_certificate_of_a_host_that_nobody_named_is_refused(stage: Stage) -> None:
    address = stage.actor_address(112)
    impostor = XmppProxyPeer("verona.example", address, stage.authority.issue(HOSTING))
    gateway = stage.capulet_gateway
    with pytest.raises(WireClosed):
        await impostor.connect(f"wss://{CAPULET}/xmpp-s2s", gateway.address, CAPULET)
    assert not any(text.startswith("< <success") for text in impostor.log)
    await impostor.stop()
