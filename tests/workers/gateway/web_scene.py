"""A domain with a real web server and DNS, and a fetcher that is to trust neither."""

from pathlib import Path

import pytest

from tests.workers.gateway.https_server import HttpsServer
from tests.workers.gateway.stub_dns import StubDns
from tests.workers.gateway.x509_matrix import Authority, dns
from workers.gateway.addresses import AddressPolicy
from workers.gateway.fetching import Fetcher, FetchFailed
from workers.gateway.hostmeta import S2S_WEBSOCKET
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


class WebScene:
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

    async def get(self, url: str = f"https://a.example{JSON}", domain: str = "a.example") -> bytes:
        async with self.fetcher.turn(domain) as get:
            return await get(url)

    async def failure(self, url: str = f"https://a.example{JSON}") -> str:
        """Why there is no document, in one line."""
        with pytest.raises(FetchFailed) as caught:
            await self.get(url)
        assert "\n" not in caught.value.reason
        return f"{type(caught.value).__name__}: {caught.value.reason}"
