import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.workers.gateway.https_server import HttpsServer, ok, status
from tests.workers.gateway.stub_dns import StubDns
from tests.workers.gateway.x509_matrix import CLIENT, Authority, dns
from workers.gateway.addresses import AddressPolicy
from workers.gateway.fetching import Absent, Fetcher, Unavailable
from workers.gateway.hostmeta import MAX_DOCUMENT, S2S_WEBSOCKET
from workers.gateway.resolver import Resolver

ADDRESS = "127.0.77.1"
JSON = "/.well-known/host-meta.json"
XRD = "/.well-known/host-meta"
DOCUMENT = {
    "links": [{"rel": S2S_WEBSOCKET, "href": "wss://gw.a.example/x"}],
    "xmpp": {"ttl": 3600},
}
XRD_DOCUMENT = (
    "<?xml version='1.0'?><XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>"
    f"<Link rel='{S2S_WEBSOCKET}' href='wss://xrd.a.example/x'/></XRD>"
).encode()


class Scene:
    """A domain a.example with a web server, DNS, and a fetcher that trusts its authority."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority()
        self.bundle = directory / "ca.pem"
        self.bundle.write_bytes(self.authority.pem)
        self.web = HttpsServer()
        self.dns: StubDns
        self.fetcher: Fetcher
        self._fetchers: list[Fetcher] = []

    async def start(self) -> None:
        self.dns = await StubDns.start()
        for name in ("a.example", "www.a.example"):
            self.dns.records[name, "A"] = [ADDRESS]
        self.use()
        leaf = self.authority.issue(dns("a.example", "www.a.example"))
        await self.web.start(ADDRESS, Fetcher.HTTPS_PORT, leaf, self.directory)

    def use(self, *allowed: str, timeout: float = 5.0) -> None:
        """Make a fetcher that may reach the networks; by default those of the web server."""
        resolver = Resolver([self.dns.address], timeout=1)
        policy = AddressPolicy(allowed or ["127.0.77.0/24"])
        self.fetcher = Fetcher(resolver, policy, lambda _: str(self.bundle), timeout=timeout)
        self._fetchers.append(self.fetcher)

    async def close(self) -> None:
        for fetcher in self._fetchers:
            await fetcher.close()
        await self.web.close()
        self.dns.close()

    def answer(self, path: str, answer: object, host: str = "a.example") -> None:
        self.web.answers[host, path] = answer

    async def failure(self, domain: str = "a.example") -> str:
        with pytest.raises((Absent, Unavailable)) as caught:
            await self.fetcher.fetch(domain)
        assert "\n" not in caught.value.reason
        return f"{type(caught.value).__name__}: {caught.value.reason}"


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    await scene.start()
    yield scene
    await scene.close()


async def test_a_published_document_is_fetched(scene):
    scene.answer(JSON, ok(DOCUMENT))
    document = await scene.fetcher.fetch("a.example")
    assert document.ttl == 3600
    assert document.targets[0].host == "gw.a.example"
    assert scene.web.asked == [f"a.example{JSON}"]
    assert "cookie" not in scene.web.heads[0].lower()


async def test_without_json_the_xrd_is_asked(scene):
    scene.answer(XRD, ok(XRD_DOCUMENT))
    document = await scene.fetcher.fetch("a.example")
    assert document.targets[0].host == "xrd.a.example"
    assert scene.web.asked == [f"a.example{JSON}", f"a.example{XRD}"]


async def test_json_with_nothing_for_us_lets_the_xrd_speak(scene):
    scene.answer(JSON, ok({"links": []}))
    scene.answer(XRD, ok(XRD_DOCUMENT))
    assert (await scene.fetcher.fetch("a.example")).targets


async def test_a_complete_document_without_s2s_is_the_last_word(scene):
    scene.answer(JSON, ok({"links": [], "xmpp": {"ttl": 60}}))
    scene.answer(XRD, ok(XRD_DOCUMENT))
    assert "Absent: host-meta.json of a.example lists no s2s" in await scene.failure()


async def test_a_domain_without_documents_offers_nothing(scene):
    assert "Absent: a.example publishes no s2s WebSocket" in await scene.failure()


async def test_a_document_that_makes_no_sense_is_no_absence(scene):
    scene.answer(JSON, ok(b"<html>"))
    assert "Unavailable: host-meta.json of a.example: not a host-meta" in await scene.failure()
    scene.answer(JSON, ok({"links": [{"rel": S2S_WEBSOCKET, "href": "ws://a.example"}]}))
    assert "Unavailable: host-meta.json of a.example: URL is not wss" in await scene.failure()


async def test_a_failing_web_server_is_no_absence(scene):
    scene.answer(JSON, status(503))
    assert "Unavailable" in (reason := await scene.failure())
    assert "HTTP status 503" in reason


async def test_redirects_over_https_are_followed(scene):
    scene.answer(JSON, status(301, f"Location: https://www.a.example{JSON}"))
    scene.answer(JSON, status(302, "Location: /moved"), host="www.a.example")
    scene.answer("/moved", ok(DOCUMENT), host="www.a.example")
    assert (await scene.fetcher.fetch("a.example")).targets


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://www.a.example/x", "not https on 443"),
        ("https://www.a.example:8443/x", "not https on 443"),
        ("https://user@www.a.example/x", "user part"),
        ("https://169.254.169.254/latest", "metadata"),
        ("https://[::ffff:10.0.0.1]/", "private"),
        ("https://private.a.example/", "private"),
        ("https://unknown.a.example/", "does not exist in DNS"),
        ("https://[broken/", "malformed"),
        (JSON, "redirects more than 3 times"),
        ("", "nowhere"),
    ],
)
async def test_redirects_to_elsewhere_are_refused(scene, location, reason):
    scene.dns.records["private.a.example", "A"] = ["10.0.0.1"]
    scene.answer(JSON, status(307, f"Location: {location}"))
    assert reason in await scene.failure()
    assert len(scene.web.asked) <= 4


async def test_private_addresses_are_refused_when_resolved(scene):
    scene.use("192.0.2.0/24")
    scene.answer(JSON, ok(DOCUMENT))
    reason = await scene.failure()
    assert "a.example: address 127.0.77.1 is loopback" in reason
    assert "discovery.allow_networks" in reason
    assert not scene.web.asked


async def test_private_addresses_are_refused_when_connecting(scene, monkeypatch):
    """As if DNS had been asked twice and answered differently (rebinding)."""
    scene.answer(JSON, ok(DOCUMENT))
    scene.use("192.0.2.0/24")
    monkeypatch.setattr(AddressPolicy, "permitted", lambda self, addresses: list(addresses))
    assert "address 127.0.77.1 is loopback" in await scene.failure()
    assert not scene.web.asked


async def test_of_several_addresses_only_permitted_ones_are_tried(scene):
    scene.dns.records["a.example", "A"] = ["127.0.0.1", ADDRESS]
    scene.answer(JSON, ok(DOCUMENT))
    assert (await scene.fetcher.fetch("a.example")).targets


async def test_a_slow_body_ends_at_the_timeout(scene):
    gone = asyncio.Event()

    async def dribble(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await gone.wait()

    scene.use(timeout=0.3)
    scene.answer(JSON, dribble)
    assert "no host-meta within 0.3 seconds" in await scene.failure()
    gone.set()


async def test_a_body_that_never_ends_is_cut(scene):
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
            await writer.drain()

    scene.answer(JSON, flood)
    assert f"larger than {MAX_DOCUMENT} bytes" in await scene.failure()


async def test_compressed_bodies_are_never_inflated(scene):
    bomb = gzip.compress(b" " * 10_000_000)
    scene.answer(JSON, ok(bomb, "Content-Encoding: gzip"))
    assert "compressed" in await scene.failure()


async def test_a_connection_cut_in_the_middle_is_a_failure(scene):
    scene.answer(JSON, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    assert "Unavailable: cannot fetch https://a.example" in await scene.failure()
    scene.answer(JSON, b"what?\r\n\r\n")
    assert "Unavailable: cannot fetch https://a.example" in await scene.failure()


async def test_the_certificate_must_be_for_the_domain(scene):
    scene.dns.records["b.example", "A"] = [ADDRESS]
    scene.answer(JSON, ok(DOCUMENT), host="b.example")
    reason = await scene.failure("b.example")
    assert "certificate of b.example is not good for https: Hostname mismatch" in reason
    assert not scene.web.asked


async def test_the_certificate_must_be_from_a_trusted_authority(scene):
    scene.bundle.write_bytes(Authority().pem)
    scene.answer(JSON, ok(DOCUMENT))
    assert "certificate of a.example is not good for https" in await scene.failure()
    scene.use()
    scene.bundle.unlink()
    assert "cannot read the trust bundle" in await scene.failure()


async def test_the_certificate_must_be_for_servers(scene, tmp_path):
    await scene.web.close()
    leaf = scene.authority.issue(dns("a.example"), usage=[CLIENT])
    await scene.web.start(ADDRESS, Fetcher.HTTPS_PORT, leaf, tmp_path)
    assert "purpose" in await scene.failure()


async def test_nobody_there_is_one_clear_line(scene):
    scene.dns.records["b.example", "A"] = ["127.0.77.9"]
    assert "cannot connect to b.example port 443" in await scene.failure("b.example")
    assert "c.example does not exist in DNS" in await scene.failure("c.example")
