"""HM-01 to HM-14: what XEP-0156 and XEP-0487 ask of whoever reads and publishes host-meta.

A domain publishes on a real web server, and real endpoints of every kind wait where it points to.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from websockets.http11 import Request

from coordinator.config import Certificates, Config, Gateway, Limits, Pair, WebSocket
from coordinator.config import Discovery as DiscoveryOptions
from loadtest.stage.authority import KeyPair, TestAuthority
from loadtest.stage.peers import XmppProxyPeer
from loadtest.stage.wire import Wire, WireClosed
from tests.workers.gateway.gateway_bench import Peer as Owner
from tests.workers.gateway.https_server import HttpsServer, ok, status
from tests.workers.gateway.session_bench import until
from tests.workers.gateway.stub_dns import StubDns
from tests.workers.gateway.tcp import silent_listener
from workers.gateway import remote_connector
from workers.gateway.discovery import STALE_KEEP, Discovered, Discovery
from workers.gateway.failure import HopFailed
from workers.gateway.fetching import Fetcher
from workers.gateway.hostmeta import MAX_TTL, S2S_WEBSOCKET, build_json
from workers.gateway.identity import TrustSources
from workers.gateway.judge import Judge
from workers.gateway.publication import Publication
from workers.gateway.remote_connector import RemoteConnector
from workers.gateway.resolver import Resolver
from workers.gateway.tls import OwnCertificates

OWN, DOMAIN = "capulet.example", "verona.example"
HOST, FRONT = "gw.verona.example", "front.hoster.example"
WEB, GOOD = "127.0.80.1", "127.0.80.2"
JSON, XRD = "/.well-known/host-meta.json", "/.well-known/host-meta"


def link(host: str = HOST, address: str = GOOD, **more: Any) -> dict[str, Any]:
    href = f"wss://{host}/xmpp-s2s"
    fields = {"ips": [address], "priority": 1, "weight": 1, "sni": host}
    return {"rel": S2S_WEBSOCKET, "href": href} | fields | more


def document(*links: dict[str, Any], ttl: int = 600) -> bytes:
    return ok({"xmpp": {"ttl": ttl}, "links": list(links)})


def xrd(*hrefs: str) -> bytes:
    links = "".join(f"<Link rel='{S2S_WEBSOCKET}' href='{href}'/>" for href in hrefs)
    return ok(f"<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>{links}</XRD>".encode())


class SilentPeer(XmppProxyPeer):
    """Its WebSocket opens, and then it says nothing."""

    async def serve(self, wire: Wire) -> None:
        await asyncio.Event().wait()


class ClosingPeer(XmppProxyPeer):
    """Says `<close/>` instead of `<open/>`, as xmpp-proxy does when it has too much to do."""

    async def serve(self, wire: Wire) -> None:
        self.send(wire, "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>")
        wire.end()


class Impostor(XmppProxyPeer):
    """Has the right certificate and answers as another domain."""

    def _answer_open(self, wire: Wire, sender: str, features: str) -> None:
        self.domain, domain = "mantua.example", self.domain
        super()._answer_open(wire, sender, features)
        self.domain = domain


class Scene:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 1_000_000.0
        self.authority = TestAuthority(directory / "ca")
        self.own = self.authority.issue(OWN)
        self.web = HttpsServer()
        self.peers: list[XmppProxyPeer] = []
        self.dns: StubDns
        self.discovery: Discovery

    async def start(self) -> None:
        self.dns = await StubDns.start()
        self.dns.records |= {(DOMAIN, "A"): [WEB], (HOST, "A"): [GOOD]}
        files = self.authority.issue(DOMAIN)
        leaf = SimpleNamespace(pem=files.certificate.read_bytes() + files.key.read_bytes())
        await self.web.start(WEB, Fetcher.HTTPS_PORT, leaf, self.directory)
        self.config = Config(
            gateway=Gateway(domains=(OWN,), state_dir=str(self.directory)),
            certificates=Certificates(
                pairs=(Pair(certificate=str(self.own.certificate), key=str(self.own.key)),),
                trust=str(self.authority.bundle),
            ),
            websocket=WebSocket(listen=(f"{GOOD}:443",), public_url=f"wss://gw.{OWN}/xmpp-s2s"),
            discovery=DiscoveryOptions(allow_networks=("127.0.80.0/24",), timeout=3),
            limits=Limits(connect_timeout=3.0),
        )
        self.resolver = Resolver([self.dns.address], timeout=1)
        shared: dict[str, bytes] = {}

        async def load(domain: str) -> bytes | None:
            return shared.get(domain)

        async def save(domain: str, payload: bytes, _seconds: int) -> None:
            shared[domain] = payload

        self.discovery = Discovery(self.config, self.resolver, load, save, now=lambda: self.now)
        self.connector = RemoteConnector(
            self.config,
            self.discovery,
            OwnCertificates(self.config),
            Judge(TrustSources(self.config), self.discovery),
            b"secret",
        )

    async def close(self) -> None:
        for peer in self.peers:
            await peer.stop()
            for wire in peer.wires:
                with contextlib.suppress(WireClosed):
                    while True:
                        await wire.receive(5)
        await self.discovery.close()
        await self.web.close()
        self.dns.close()

    def publish(self, json: bytes | None = None, xrd: bytes | None = None) -> None:
        for path, answer in ((JSON, json), (XRD, xrd)):
            self.web.answers[DOMAIN, path] = answer or status(404)

    async def peer(
        self,
        address: str = GOOD,
        kind: type[XmppProxyPeer] = XmppProxyPeer,
        names: tuple[str, ...] = (DOMAIN, HOST),
    ) -> XmppProxyPeer:
        pair: KeyPair = self.authority.issue(*names)
        peer = kind(DOMAIN, address, pair, host=HOST)
        await peer.start()
        self.peers.append(peer)
        return peer

    async def find(self) -> Discovered:
        return await self.discovery.find(DOMAIN)

    async def urls(self) -> list[str]:
        return [target.url for target in (await self.find()).targets]

    async def connect(self) -> None:
        """An authenticated stream to the domain."""
        session = await self.connector.connect(OWN, DOMAIN, Owner())
        assert session.stream.authenticated_by == "external"  # type: ignore[attr-defined]
        session.close()
        await until(lambda: session.ended)

    async def failure(self) -> str:
        with pytest.raises(HopFailed) as caught:
            await self.connect()
        return caught.value.reason


@pytest_asyncio.fixture
async def scene(
    tmp_path: Path, short_times: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    monkeypatch.setattr(remote_connector, "MIN_ATTEMPT", 0.5)
    scene = Scene(tmp_path)
    await scene.start()
    yield scene
    await scene.close()


async def test_hm_01_json_alone_is_enough(scene: Scene) -> None:
    scene.publish(json=document(link()))
    await scene.peer()
    await scene.connect()
    assert scene.web.asked == [f"{DOMAIN}{JSON}"]


async def test_hm_02_xrd_alone_is_enough(scene: Scene) -> None:
    scene.publish(xrd=xrd(f"wss://{HOST}/xmpp-s2s"))
    await scene.peer()
    await scene.connect()


async def test_hm_03_only_our_rel_counts(scene: Scene) -> None:
    rels = ("websocket", "xbosh", "s2s-tls", "s2s-quic", "tls", "s2s-websocket-2")
    others = [{"rel": f"urn:xmpp:alt-connections:{rel}", "href": "wss://x/"} for rel in rels]
    links = [*others, {"rel": "lrdd", "template": "https://x/{uri}"}, {"rel": S2S_WEBSOCKET}, 7]
    scene.publish(json=document(*links, link(alpn=["h2"], ech="AA==")))
    assert await scene.urls() == [f"wss://{HOST}/xmpp-s2s"]


async def test_hm_04_priority_first_then_weight_by_chance(scene: Scene) -> None:
    hosts = {"backup": (2, 100), "often": (1, 90), "seldom": (1, 10), "hardly": (1, 0)}
    links = [
        link(f"{name}.verona.example", priority=priority, weight=weight)
        for name, (priority, weight) in hosts.items()
    ]
    scene.publish(json=document(*links))
    firsts: Counter[str] = Counter()
    for _ in range(1000):
        targets = (await scene.find()).targets
        assert [target.priority for target in targets] == [1, 1, 1, 2]
        firsts[targets[0].host.partition(".")[0]] += 1
    # 0.9, 0.1 and about 0.01 of all: the bounds are wider than chance ever goes.
    assert 820 <= firsts["often"] <= 960
    assert 40 <= firsts["seldom"] <= 170
    assert firsts["hardly"] <= 50


async def test_hm_05_the_xmpp_object_has_the_last_word(scene: Scene) -> None:
    scene.publish(json=document(), xrd=xrd(f"wss://{HOST}/xmpp-s2s"))
    assert (await scene.find()).native
    assert scene.web.asked == [f"{DOMAIN}{JSON}"]


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [(600, 600), (1, 60), (-5, 60), (MAX_TTL * 2, MAX_TTL), (0, 60), (10**30, MAX_TTL)],
)
async def test_hm_06_the_ttl_is_kept_within_bounds(scene: Scene, ttl: int, seconds: int) -> None:
    scene.publish(json=document(link(), ttl=ttl))
    for age, fetches in ((0, 1), (seconds - 1, 1), (1, 2)):
        scene.now += age
        await scene.find()
        assert len(scene.web.asked) == fetches


@pytest.mark.parametrize("ttl", ["600", 6.5, None, []])
async def test_hm_06_a_ttl_that_is_none_spoils_the_document(scene: Scene, ttl: Any) -> None:
    broken = ok(json.dumps({"xmpp": {"ttl": ttl}, "links": [link()]}).encode())
    scene.publish(json=broken, xrd=xrd(f"wss://{HOST}/other"))
    assert await scene.urls() == [f"wss://{HOST}/other"]


async def test_hm_07_expired_data_is_the_last_resort(scene: Scene) -> None:
    scene.publish(json=document(link()))
    await scene.peer()
    await scene.find()
    await scene.web.close()
    scene.now += 601
    assert (await scene.find()).source == "stale"
    await scene.connect()
    scene.now += STALE_KEEP
    assert not (await scene.find()).targets


async def test_hm_08_redirects_are_followed_over_https_alone(scene: Scene) -> None:
    scene.publish(json=status(302, f"Location: https://{DOMAIN}/elsewhere"))
    scene.web.answers[DOMAIN, "/elsewhere"] = document(link())
    assert await scene.urls()
    scene.now += 601
    scene.web.answers[DOMAIN, "/elsewhere"] = status(302, f"Location: http://{DOMAIN}{JSON}")
    found = await scene.find()
    assert (found.source, "not https on 443" in found.reason) == ("stale", True)


@pytest.mark.parametrize(
    "href",
    [
        *("ws://gw.verona.example/", "https://gw.verona.example/", "//gw.verona.example/", ""),
        *("wss://user@gw.verona.example/", "wss://u:p@gw.verona.example/", "wss:///x", "wss://"),
        *("wss://gw.verona.example:22/", "wss://gw.verona.example:0/", "wss://gw:65536/"),
        *("wss://gw.verona.example/#x", "wss://gw.verona.example%00.x/", "wss://a b/"),
        *("wss://gw.verona.example/\r\nX: y", "wss://gw.verona.example/" + "x" * 3000),
        *("wss://[fe80::1%25eth0]/", "javascript:alert(1)", "wss://[::1/", "wss://..example/"),
    ],
)
async def test_hm_09_only_wss_urls_without_ornaments(scene: Scene, href: str) -> None:
    scene.publish(json=document(link(href=href)))
    found = await scene.find()
    assert found.targets == ()
    assert "host-meta.json of verona.example" in found.reason
    scene.now += 601
    scene.publish(json=document(link(href=href), link()))  # one bad link spoils no other
    assert await scene.urls() == [f"wss://{HOST}/xmpp-s2s"]


@pytest.mark.parametrize(
    ("fields", "names", "sni"),
    [
        ({"sni": FRONT}, (FRONT,), FRONT),
        ({"sni": FRONT}, (DOMAIN,), FRONT),
        ({"sni": ""}, (HOST,), HOST),
        ({"sni": FRONT}, (HOST,), FRONT),
    ],
)
async def test_hm_10_the_given_sni_is_sent_and_its_certificate_is_good(
    scene: Scene, fields: dict[str, str], names: tuple[str, ...], sni: str
) -> None:
    scene.publish(json=document(link(**fields)))
    peer = await scene.peer(names=names)
    await scene.connect()
    assert [wire._tls.get_servername() for wire in peer.wires] == [sni.encode()]
    # The request names the URL's host all the same.
    requests = [wire.handshake for wire in peer.wires if isinstance(wire.handshake, Request)]
    assert [request.headers["Host"] for request in requests] == [HOST]


async def test_hm_10_a_certificate_for_none_of_them_is_refused(scene: Scene) -> None:
    scene.publish(json=document(link(sni=FRONT)))
    peer = await scene.peer(names=("mantua.example", f"x.{FRONT}"))
    assert "certificate" in await scene.failure()
    assert not peer.log  # not a word was said


async def test_hm_11_a_pin_takes_nothing_away(scene: Scene) -> None:
    pins = {"ttl": 600, "public-key-pins-sha-256": ["A" * 43 + "=", "nonsense"]}
    scene.publish(json=ok({"xmpp": pins, "links": [link()]}))
    await scene.peer()
    assert (await scene.find()).pins == ("A" * 43 + "=",)
    await scene.connect()


async def test_hm_12_what_we_publish_is_complete_and_readable_for_browsers(scene: Scene) -> None:
    publication = Publication(scene.config, scene.resolver)
    for path in (JSON, XRD):
        answer = publication(SimpleNamespace(path=path))  # type: ignore[arg-type]
        assert answer is not None
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    published = json.loads(build_json(scene.config, [GOOD]))
    assert 0 < published["xmpp"]["ttl"] <= 65535
    assert set(published["links"][0]) == {"rel", "href", "ips", "priority", "weight", "sni"}


async def test_hm_13_host_meta_goes_before_srv(scene: Scene) -> None:
    """XEP-0156 would ask SRV first, XEP-0487 host-meta: here whoever publishes wss means it."""
    scene.dns.records[f"_xmpp-server._tcp.{DOMAIN}", "SRV"] = [f"0 0 5269 {HOST}."]
    scene.publish(json=ok({"links": [{"rel": S2S_WEBSOCKET, "href": f"wss://{HOST}/xmpp-s2s"}]}))
    await scene.peer()
    await scene.connect()
    assert not scene.dns.asked[f"_xmpp-server._tcp.{DOMAIN}", "SRV"]


async def test_hm_14_every_endpoint_is_tried_until_one_is_the_right_one(scene: Scene) -> None:
    """XEP-0487 §3.2: an authenticated stream with the right domain, not just a connection."""
    kinds = {
        "127.0.80.11": (XmppProxyPeer, ("mantua.example",)),  # not its certificate
        "127.0.80.12": (ClosingPeer, (DOMAIN,)),
        "127.0.80.13": (Impostor, (DOMAIN,)),
        "127.0.80.14": (SilentPeer, (DOMAIN,)),
    }
    peers = [await scene.peer(address, *how) for address, how in kinds.items()]
    good = await scene.peer(names=(DOMAIN,))
    refusing, silent = "127.0.80.10", "127.0.80.15"
    hosts = [refusing, silent, *kinds, GOOD]
    links = [link(f"h{n}.verona.example", host, priority=n) for n, host in enumerate(hosts)]
    scene.publish(json=document(*links))
    with silent_listener(silent):
        await scene.connect()
    assert [len(peer.wires) for peer in peers] == [0, 1, 1, 1]
    assert len(good.wires) == 1


async def test_hm_14_every_address_of_an_endpoint_is_tried(scene: Scene) -> None:
    kinds = {"127.0.80.11": ClosingPeer, "127.0.80.12": Impostor, "127.0.80.13": SilentPeer}
    peers = [await scene.peer(address, kind) for address, kind in kinds.items()]
    await scene.peer()
    ips = ["127.0.80.10", "127.0.80.15", "10.0.0.1", *kinds, GOOD]
    scene.publish(json=document(link(ips=ips)))
    with silent_listener("127.0.80.15"):
        await scene.connect()
    assert [len(peer.wires) for peer in peers] == [1, 1, 1]


async def test_hm_14_when_none_is_good_each_has_its_reason(scene: Scene) -> None:
    await scene.peer(kind=Impostor)
    links = [link("a.verona.example", "127.0.80.10"), link(priority=2)]
    scene.publish(json=document(*links))
    reason = await scene.failure()
    assert "wss://a.verona.example/xmpp-s2s: cannot connect to 127.0.80.10 port 443" in reason
    assert "invalid-from" in reason
