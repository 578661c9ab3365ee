"""The shipped lines for HTTPS proxies, each in a real proxy before our listener.

What the listener then knows of a peer is what it would know without the proxy.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from coordinator.config import WebSocket
from loadtest.stage.authority import KeyPair, TestAuthority
from loadtest.stage.wire import Wire, WireClosed, dial, tls_context
from tests.deploy.fronts import DEPLOY, PASS_THROUGH, REAL, Front, Place, told
from tests.workers.gateway.wire_bench import RecordingWebSocketOwner
from workers.gateway.certificates import load_pair
from workers.gateway.forwarded import TrustedProxies
from workers.gateway.tls import server_context
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint, serve

HOST, PEER = "gw.capulet.example", "montague.example"
# What a peer may say that wants to be somebody else.
FORGED = {
    "X-Forwarded-For": "198.51.100.1",
    "Client-Cert": "forged",
    "Client-Cert-Chain": "forged",
    "X-SSL-Client-Cert": "forged",
    "X-Forwarded-Tls-Client-Cert": "forged",
}
# They have no way to forward more than the leaf.
LEAF_ALONE = ("nginx", "caddy")


class Behind:
    """Our listener behind a proxy, set up as the shipped file says."""

    def __init__(self, settings: WebSocket, pair: KeyPair) -> None:
        self.opened: list[AcceptedWebSocket] = []
        self.endpoint = Endpoint(
            path=settings.path,
            new_owner=self._new_owner,
            context=server_context(load_pair(pair.certificate, pair.key)) if settings.tls else None,
            proxies=TrustedProxies(settings.trusted_proxies, settings.client_certificate_header),
            http_responder=self._respond,
        )

    def _new_owner(self, websocket: AcceptedWebSocket) -> RecordingWebSocketOwner:
        self.opened.append(websocket)
        return RecordingWebSocketOwner()

    def _respond(self, request: Request) -> Response | None:
        return Response(200, "OK", Headers(), b"{}") if "host-meta" in request.path else None


class Scene:
    """A peer and the gateway, with a proxy in between; the gateway's address is 127.0.0.1."""

    def __init__(self, front: Front, behind: Behind, authority: TestAuthority) -> None:
        self.front = front
        self.behind = behind
        self.authority = authority

    async def dial(self, pair: KeyPair | None, **headers: str) -> tuple[Wire, AcceptedWebSocket]:
        place = self.front.place
        wire = await dial(
            f"wss://{HOST}:{place.port}/xmpp-s2s", place.address, tls_context(pair), headers=headers
        )
        return wire, self.behind.opened.pop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def scene(kind: str, directory: Path) -> AsyncIterator[Scene]:
    authority = TestAuthority(directory / "ca")
    pair = authority.issue(HOST)
    behind = Behind(told(kind), pair)
    sock = socket.create_server(("127.0.0.1", 0))
    server = await serve(behind.endpoint, sock)
    upstream = f"127.0.0.1:{sock.getsockname()[1]}"
    place = Place("127.0.0.1", free_port(), HOST, pair, upstream)
    front = Front(kind, directory / "front", place)
    try:
        await front.start()
        yield Scene(front, behind, authority)
    finally:
        await front.stop()
        server.close()


@pytest.mark.parametrize("kind", REAL)
async def test_a_peers_certificate_arrives_and_forged_ones_do_not(
    kind: str, tmp_path: Path
) -> None:
    async with scene(kind, tmp_path) as it:
        shown = {
            "for servers alone": it.authority.issue(PEER),
            "for clients too": it.authority.issue(PEER, server_auth_only=False),
            "self-signed": it.authority.issue(PEER, self_signed=True),
            "none": None,
        }
        for what, pair in shown.items():
            for headers in ({}, FORGED):
                wire, websocket = await it.dial(pair, **headers)
                chain = websocket.peer_chain()
                assert chain[:1] == certificates(pair)[:1], (what, headers)
                # The file of a self-signed one names the authority without need.
                if kind not in LEAF_ALONE:
                    assert chain == certificates(pair), (what, headers)
                assert websocket.peer_address == "127.0.0.1"
                assert websocket.is_behind_proxy == (kind in PASS_THROUGH)
                wire.end()


def certificates(pair: KeyPair | None) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pair.certificate.read_bytes()) if pair else []


@pytest.mark.parametrize("kind", REAL)
async def test_messages_and_pings_pass_and_other_paths_are_not_ours(
    kind: str, tmp_path: Path
) -> None:
    async with scene(kind, tmp_path) as it:
        wire, websocket = await it.dial(it.authority.issue(PEER))
        owner = websocket.owner
        assert isinstance(owner, RecordingWebSocketOwner)
        wire.send("<open/>")
        assert await owner.messages.get() == b"<open/>"
        websocket.send_messages([b"<large>" + b"x" * 200_000 + b"</large>"])
        assert len(await wire.receive()) == 200_015
        websocket.ping(b"k")
        assert await owner.pongs.get() == b"k"
        wire.close()
        assert (await owner.closes.get())[0] == 1000
        if kind not in PASS_THROUGH:
            it.behind.endpoint.path = "/"
            with pytest.raises(WireClosed):
                await dial(f"wss://{HOST}:{it.front.place.port}/", "127.0.0.1", tls_context(None))


def test_traefiks_file_asks_for_certificates_and_forwards_them() -> None:
    """Debian has no Traefik to check it with; its header is played in the integration tests."""
    document = yaml.safe_load((DEPLOY / "traefik.yaml").read_text())
    settings = told("traefik")

    router = document["http"]["routers"]["fedgate"]
    [middleware] = router["middlewares"]
    assert document["http"]["middlewares"][middleware] == {"passTLSClientCert": {"pem": True}}
    options = document["tls"]["options"][router["tls"]["options"]]
    assert options["clientAuth"]["clientAuthType"] == "RequestClientCert"
    [server] = document["http"]["services"][router["service"]]["loadBalancer"]["servers"]
    assert server["url"] == f"http://{settings.listen[0]}"
    assert f"`{settings.path}`" in router["rule"]
    assert settings.client_certificate_header == "X-Forwarded-Tls-Client-Cert"
    assert not settings.tls and settings.trusted_proxies == ("127.0.0.1/32",)
