"""A domain that publishes one target, and workers that discover it and share a Redis."""

from pathlib import Path
from typing import Any

from coordinator.config import Certificates, Config, Local, Remote
from coordinator.config import Discovery as DiscoveryOptions
from tests.workers.gateway.https_server import HttpsServer, ok
from tests.workers.gateway.stub_dns import StubDns
from tests.workers.gateway.x509_matrix import Authority, dns
from workers.gateway.discovery import Discovery
from workers.gateway.fetching import Fetcher
from workers.gateway.hostmeta import S2S_WEBSOCKET
from workers.gateway.resolver import Resolver

ADDRESS = "127.0.78.1"
JSON = "/.well-known/host-meta.json"
TTL = 600
NATIVE_TTL = 300


def link(host: str = "gw.a.example", **more: Any) -> dict[str, Any]:
    return {"rel": S2S_WEBSOCKET, "href": f"wss://{host}/x"} | more


def document(*links: dict[str, Any], ttl: int = TTL) -> bytes:
    return ok({"links": list(links), "xmpp": {"ttl": ttl}})


class DiscoveryScene:
    """a.example publishes one target; the clock stands still; Redis is a dict that may be away."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 1_000_000.0
        self.shared: dict[str, bytes] = {}
        self.kept: dict[str, int] = {}
        self.web = HttpsServer()
        self.web.answers["a.example", JSON] = document(link())
        self.dns: StubDns
        self._open: list[Discovery] = []

    async def start(self) -> None:
        self.dns = await StubDns.start()
        for name in ("a.example", "b.example", "native.example"):
            self.dns.records[name, "A"] = [ADDRESS]
        authority = Authority()
        self.bundle = self.directory / "ca.pem"
        self.bundle.write_bytes(authority.pem)
        leaf = authority.issue(dns("a.example", "b.example", "native.example"))
        await self.web.start(ADDRESS, Fetcher.HTTPS_PORT, leaf, self.directory)

    async def close(self) -> None:
        for discovery in self._open:
            await discovery.close()
        await self.web.close()
        self.dns.close()

    def discovery(self, remote: dict[str, Remote] | None = None, carry: str = "") -> Discovery:
        """A worker's discovery; several share what is kept in Redis."""
        config = Config(
            certificates=Certificates(trust=str(self.bundle)),
            local=Local(carry=carry or "discovered"),
            discovery=DiscoveryOptions(
                allow_networks=("127.0.78.0/24",), timeout=3, ttl=900, native_ttl=NATIVE_TTL
            ),
            remote=remote or {},
        )
        resolver = Resolver([self.dns.address], timeout=1)
        made = Discovery(config, resolver, self._load, self._save, now=lambda: self.now)
        self._open.append(made)
        return made

    async def _load(self, domain: str) -> bytes | None:
        return self.shared.get(domain)

    async def _save(self, domain: str, payload: bytes, keep_seconds: int) -> None:
        self.shared[domain] = payload
        self.kept[domain] = keep_seconds

    @property
    def fetches(self) -> int:
        return self.web.asked.count(f"a.example{JSON}")
