"""A gateway behind HTTPS proxies: nginx, HAProxy, Traefik's header, and TLS that is passed through.

The proxies run with the files that are shipped for them, the gateway with what those files say.
"""

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.authority import KeyPair
from loadtest.stage.gateway import Gateway
from loadtest.stage.peers import FRAMING, PeerTubePeer, XmppProxyPeer
from loadtest.stage.stage import CAPULET, Stage
from loadtest.stage.users import User
from loadtest.stage.wire import WireClosed, dial, tls_context
from tests.deploy.fronts import PASS_THROUGH, Front, Place, TraefikStub, told

PROXIED = "verona.example"
TUBE = "tube-behind.example"
URL = f"wss://gw.{CAPULET}/xmpp-s2s"
KINDS = ["nginx", "haproxy", "traefik", "nginx-stream", "haproxy-tcp"]
FORWARDING = [kind for kind in KINDS if kind not in PASS_THROUGH]
AnyFront = Front | TraefikStub


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(stage: Stage) -> AsyncIterator[Gateway]:
    """capulet's gateway, which is without a proxy again in the end."""
    gateway = stage.capulet_gateway
    yield gateway
    gateway.configure("websocket", tls=None, trusted_proxies=None, client_certificate_header=None)
    await gateway.restart()


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=KINDS)
async def front(
    request: pytest.FixtureRequest,
    stage: Stage,
    gateway: Gateway,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[AnyFront]:
    """A proxy before capulet's gateway."""
    kind = request.param
    addresses = {kind: stage.actor_address(140 + number) for number, kind in enumerate(KINDS)}
    address = addresses[kind]
    # A passed-through name is the gateway's alone; a terminating proxy has the domain's, too.
    names = [f"gw.{CAPULET}"] if kind in PASS_THROUGH else [f"gw.{CAPULET}", CAPULET]
    place = Place(
        address,
        WEBSOCKET_PORT,
        names[0],
        stage.authority.issue(*names),
        f"{gateway.address}:{WEBSOCKET_PORT}",
    )
    for name in names:
        stage.dns.set(name, "A", address)
    options = {
        "tls": told(kind).tls,
        "trusted_proxies": [f"{each}/32" for each in addresses.values()],
        "client_certificate_header": told(kind).client_certificate_header,
    }
    if not options.items() <= gateway.options["websocket"].items():
        gateway.configure("websocket", **options)
        await gateway.restart()
    front: AnyFront = TraefikStub(place, stage.authority.bundle)
    if kind != "traefik":
        front = Front(kind, tmp_path_factory.mktemp("fronts") / kind, place)
    await front.start()
    yield front
    await front.stop()
    for name in names:
        stage.dns.set(name, "A", gateway.address)


@pytest.fixture
def pair(front: AnyFront, stage: Stage) -> KeyPair:
    """What verona.example shows; the stub's TLS takes none that are for servers only."""
    return stage.authority.issue(PROXIED, server_auth_only=front.kind != "traefik")


@pytest_asyncio.fixture(loop_scope="session")
async def tube(stage: Stage, front: AnyFront) -> AsyncIterator[PeerTubePeer]:
    """A PeerTube instance: it proves nothing by certificates, and finds capulet at the proxy."""
    peer = PeerTubePeer(TUBE, stage.actor_address(139), stage.authority.issue(TUBE))
    peer.masks = True
    peer.introduce(CAPULET, URL, front.place.address)
    stage.dns.set(TUBE, "A", peer.address)
    await peer.start()
    yield peer
    await peer.stop()
    stage.dns.remove(TUBE)


def message(domain: str, to: str, body: str) -> str:
    return (
        f"<message from='paris@{domain}/villa' to='{to}' id='m1' type='chat' "
        f"xmlns='jabber:server'><body>{body}</body></message>"
    )


async def offered(front: AnyFront, pair: KeyPair | None, headers: dict[str, str]) -> str:
    """The features for one who says that it is verona.example."""
    wire = await dial(URL, front.place.address, tls_context(pair), headers=headers)
    wire.send(f"<open xmlns='{FRAMING}' from='{PROXIED}' to='{CAPULET}' version='1.0'/>")
    await wire.receive()
    features = await wire.receive()
    wire.end()
    return features


async def status(gateway: Gateway, caller: str, headers: list[str]) -> int:
    """What the gateway answers to an upgrade without TLS that comes from `caller`."""
    reader, writer = await asyncio.open_connection(
        gateway.address, WEBSOCKET_PORT, local_addr=(caller, 0)
    )
    lines = [
        "GET /xmpp-s2s HTTP/1.1",
        f"Host: gw.{CAPULET}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: xmpp",
    ]
    writer.write("\r\n".join([*lines, *headers, "", ""]).encode())
    answer = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return int(answer.split()[1])


async def test_a_server_proves_itself_by_its_certificate(
    front: AnyFront, gateway: Gateway, stage: Stage, pair: KeyPair, juliet: User
) -> None:
    # It sends the Origin of the URL, too, as xmpp-proxy does.
    peer = XmppProxyPeer(PROXIED, stage.actor_address(138), pair)
    wire = await peer.connect(URL, front.place.address, CAPULET)
    body = f"through {front.kind}"
    peer.send(wire, message(PROXIED, juliet.jid, body))
    assert (await juliet.message(body)).sender == f"paris@{PROXIED}/villa"
    [session] = await gateway.wait_session(PROXIED, "inbound")
    assert session["authenticated_by"] == "external"
    assert session["peer"].startswith(f"127.0.0.1 via {front.place.address}:")
    peer.close(wire)
    await peer.stop()


async def test_dialback_in_both_directions(
    front: AnyFront, tube: PeerTubePeer, juliet: User
) -> None:
    wire = await tube.connect(URL, front.place.address, CAPULET)
    body = f"to the house through {front.kind}"
    tube.say(wire, message(TUBE, juliet.jid, body))
    assert (await juliet.message(body)).sender == f"paris@{TUBE}/villa"

    # Now it is the tube that asks capulet's gateway about a key, through the proxy.
    juliet.send(f"paris@{TUBE}", f"from the house through {front.kind}")
    await tube.next_stanza(f"from the house through {front.kind}", within=20)


async def test_a_certificate_in_a_peers_own_headers_proves_nothing(
    front: AnyFront, stage: Stage
) -> None:
    stolen = x509.load_pem_x509_certificate(
        stage.authority.issue(PROXIED).certificate.read_bytes()
    ).public_bytes(Encoding.DER)
    b64 = base64.b64encode(stolen).decode()
    headers = {
        "Client-Cert": f":{b64}:",
        "X-SSL-Client-Cert": b64,
        "X-Forwarded-Tls-Client-Cert": b64,
        "X-Forwarded-For": front.place.address,
    }
    other = stage.authority.issue("other.example", server_auth_only=False)
    for pair in (None, other):
        features = await offered(front, pair, headers)
        assert "EXTERNAL" not in features and "urn:xmpp:features:dialback" in features


async def test_another_domains_certificate_is_refused(front: AnyFront, stage: Stage) -> None:
    other = stage.authority.issue("other.example", server_auth_only=False)
    impostor = XmppProxyPeer(PROXIED, stage.actor_address(138), other)
    with pytest.raises(WireClosed):
        await impostor.connect(URL, front.place.address, CAPULET)
    assert not any(text.startswith("< <success") for text in impostor.log)
    await impostor.stop()


@pytest.mark.parametrize("front", FORWARDING, indirect=True)
async def test_without_tls_the_gateway_hears_its_proxy_alone(
    front: AnyFront, gateway: Gateway
) -> None:
    header = told(front.kind).client_certificate_header
    assert await status(gateway, "127.0.0.1", []) == 403
    assert await status(gateway, "127.0.0.1", [f"X-Forwarded-For: {front.place.address}"]) == 403
    assert await status(gateway, front.place.address, []) == 101
    assert await status(gateway, front.place.address, [f"{header}: x", f"{header}: y"]) == 400
    assert await status(gateway, front.place.address, [f"{header}: x"]) == 400
