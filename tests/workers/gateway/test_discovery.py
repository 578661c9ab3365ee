import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from coordinator.config import Certificates, Config, Local, Remote
from coordinator.config import Discovery as DiscoveryOptions
from tests.workers.gateway.https_server import HttpsServer, ok, status
from tests.workers.gateway.stub_dns import StubDns
from tests.workers.gateway.x509_matrix import Authority, dns
from workers.gateway.discovery import STALE_KEEP, STALE_RETRY, Discovery, NoUsableAddress
from workers.gateway.fetching import MAX_TURNS_FROM, Fetcher
from workers.gateway.hostmeta import S2S_WEBSOCKET, parse_url
from workers.gateway.resolver import Resolver

ADDRESS = "127.0.78.1"
JSON = "/.well-known/host-meta.json"
TTL = 600
NATIVE_TTL = 300


def link(host: str = "gw.a.example", **more: Any) -> dict[str, Any]:
    return {"rel": S2S_WEBSOCKET, "href": f"wss://{host}/x"} | more


def document(*links: dict[str, Any], ttl: int = TTL) -> bytes:
    return ok({"links": list(links), "xmpp": {"ttl": ttl}})


class Scene:
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


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    await scene.start()
    yield scene
    await scene.close()


async def test_published_targets_are_found_and_kept_for_their_ttl(scene):
    discovery = scene.discovery()
    found = await discovery.find("a.example")
    assert [target.url for target in found.targets] == ["wss://gw.a.example/x"]
    assert (found.source, found.native) == ("host-meta", False)
    scene.now += TTL - 1
    await discovery.find("a.example")
    assert scene.fetches == 1
    scene.now += 1
    await discovery.find("a.example")
    assert scene.fetches == 2


async def test_a_document_without_ttl_is_kept_as_configured(scene):
    scene.web.answers["a.example", JSON] = ok({"links": [link()]})
    await scene.discovery().find("a.example")
    assert scene.kept["a.example"] == 900 + STALE_KEEP


async def test_targets_come_in_the_order_of_priority(scene):
    links = [link(f"gw{p}.a.example", priority=p, weight=1) for p in (30, 10, 20)]
    scene.web.answers["a.example", JSON] = document(*links)
    found = await scene.discovery().find("a.example")
    assert [target.priority for target in found.targets] == [10, 20, 30]


async def test_many_who_ask_at_once_make_one_request(scene):
    discovery = scene.discovery()
    found = await asyncio.gather(*(discovery.find("a.example") for _ in range(20)))
    assert {one.source for one in found} == {"host-meta"}
    assert scene.fetches == 1


async def test_one_who_gives_up_does_not_spoil_it_for_others(scene):
    discovery = scene.discovery()
    impatient = asyncio.create_task(discovery.find("a.example"))
    patient = asyncio.create_task(discovery.find("a.example"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).targets
    assert scene.fetches == 1


async def test_workers_share_what_they_found(scene):
    first = await scene.discovery().find("a.example")
    second = await scene.discovery().find("a.example")
    assert second.targets == first.targets
    assert second.source == "cache"
    assert scene.fetches == 1


async def test_a_native_domain_is_remembered_as_native(scene):
    discovery = scene.discovery()
    found = await discovery.find("native.example")
    assert found.native
    assert found.targets == ()
    assert "publishes no s2s WebSocket" in found.reason
    asked = len(scene.web.asked)
    scene.now += NATIVE_TTL - 1
    assert (await discovery.find("native.example")).native
    assert len(scene.web.asked) == asked
    assert scene.kept["native.example"] == NATIVE_TTL
    scene.web.answers["native.example", JSON] = document(link())
    scene.now += 1
    assert not (await discovery.find("native.example")).native


async def test_expired_targets_serve_while_nothing_newer_can_be_had(scene):
    discovery = scene.discovery()
    await discovery.find("a.example")
    scene.web.answers["a.example", JSON] = status(500)
    scene.now += TTL
    found = await discovery.find("a.example")
    assert found.source == "stale"
    assert found.targets
    assert "HTTP status 500" in found.reason
    await discovery.find("a.example")
    assert scene.fetches == 2
    scene.web.answers["a.example", JSON] = document(link("new.a.example"))
    scene.now += STALE_RETRY
    found = await discovery.find("a.example")
    assert (found.source, found.targets[0].host) == ("host-meta", "new.a.example")


async def test_expired_targets_in_redis_serve_another_worker(scene):
    await scene.discovery().find("a.example")
    await scene.web.close()
    scene.now += TTL
    assert (await scene.discovery().find("a.example")).source == "stale"


async def test_expired_targets_do_not_serve_for_ever(scene):
    discovery = scene.discovery()
    await discovery.find("a.example")
    scene.web.answers["a.example", JSON] = status(500)
    scene.now += STALE_KEEP + 1
    assert (await discovery.find("a.example")).native


async def test_a_domain_that_says_it_has_none_is_believed_at_once(scene):
    discovery = scene.discovery()
    await discovery.find("a.example")
    del scene.web.answers["a.example", JSON]
    scene.now += TTL
    assert (await discovery.find("a.example")).native


async def test_a_configured_url_needs_no_discovery(scene):
    discovery = scene.discovery({"a.example": Remote(url="wss://10.0.0.5:81/s2s")})
    found = await discovery.find("a.example")
    assert found.source == "config"
    assert not found.native
    assert found.targets[0].url == "wss://10.0.0.5:81/s2s"
    assert not scene.web.asked
    assert await discovery.addresses(found, found.targets[0]) == ["10.0.0.5"]


async def test_the_default_table_counts_for_domains_without_their_own(scene):
    discovery = scene.discovery(
        {"*": Remote(url="wss://hub.example/s2s"), "a.example": Remote(trust=str(scene.bundle))}
    )
    assert (await discovery.find("c.example")).targets[0].host == "hub.example"
    assert (await discovery.find("a.example")).targets[0].host == "gw.a.example"


async def test_a_configured_url_that_is_none_is_said(scene):
    found = await scene.discovery({"a.example": Remote(url="http://x")}).find("a.example")
    assert found.native
    assert "[remote] url of a.example: URL is not wss" in found.reason


async def test_a_blocked_domain_is_neither_reached_nor_native(scene):
    discovery = scene.discovery({"*": Remote(block=True), "a.example": Remote()})
    found = await discovery.find("c.example")
    assert found.blocked
    assert not found.native
    assert found.targets == ()
    assert not discovery.is_native("c.example")
    assert (await discovery.find("a.example")).targets


async def test_only_listed_domains_are_carried_when_so_configured(scene):
    discovery = scene.discovery({"a.example": Remote()}, carry="listed")
    assert (await discovery.find("a.example")).targets
    assert (await discovery.find("b.example")).source == "not-listed"
    assert discovery.is_native("b.example")
    assert f"b.example{JSON}" not in scene.web.asked


async def test_each_domain_is_asked_with_its_own_trust(scene, tmp_path):
    other = tmp_path / "other.pem"
    other.write_bytes(Authority().pem)
    discovery = scene.discovery({"a.example": Remote(trust=str(other))})
    found = await discovery.find("a.example")
    assert found.native
    assert "certificate of a.example is not good" in found.reason
    scene.web.answers["b.example", JSON] = document(link())
    assert (await discovery.find("b.example")).targets


async def test_addresses_of_the_document_are_used_after_the_policy(scene):
    ips = ["10.0.0.1", "127.0.78.7", "127.0.78.8"]
    scene.web.answers["a.example", JSON] = document(link(ips=ips))
    discovery = scene.discovery()
    found = await discovery.find("a.example")
    assert await discovery.addresses(found, found.targets[0]) == ips[1:]


async def test_without_permitted_addresses_the_host_is_resolved(scene):
    scene.web.answers["a.example", JSON] = document(link(ips=["10.0.0.1"]))
    scene.dns.records["gw.a.example", "A"] = ["127.0.78.9", "192.168.1.1"]
    discovery = scene.discovery()
    found = await discovery.find("a.example")
    assert await discovery.addresses(found, found.targets[0]) == ["127.0.78.9"]


async def test_targets_without_a_permitted_address_are_refused_with_the_reason(scene):
    discovery = scene.discovery()
    found = await discovery.find("a.example")
    with pytest.raises(NoUsableAddress, match="does not exist in DNS"):
        await discovery.addresses(found, found.targets[0])
    scene.web.answers["b.example", JSON] = document(link("[::ffff:10.0.0.1]"))
    found = await discovery.find("b.example")
    with pytest.raises(NoUsableAddress, match="private"):
        await discovery.addresses(found, found.targets[0])


async def test_a_configured_peer_cannot_lead_us_to_private_addresses(scene):
    discovery = scene.discovery({"c.example": Remote(url="wss://10.0.0.5/")})
    found = await discovery.find("c.example")
    with pytest.raises(NoUsableAddress, match="loopback"):
        await discovery.addresses(found, parse_url("wss://127.0.0.1:5269/"))


async def test_a_failure_of_our_own_dns_is_not_told_to_others_and_soon_forgotten(scene):
    scene.dns.records["a.example", "A"] = "SERVFAIL"
    discovery = scene.discovery()
    found = await discovery.find("a.example")
    assert found.native
    assert "DNS failed for a.example" in found.reason
    assert not scene.shared
    scene.dns.records["a.example", "A"] = [ADDRESS]
    scene.now += STALE_RETRY
    assert (await discovery.find("a.example")).targets


async def test_hostnames_of_configured_urls_obey_the_policy(scene):
    scene.dns.records["gw.c.example", "A"] = ["127.0.0.1"]
    discovery = scene.discovery({"c.example": Remote(url="wss://gw.c.example/")})
    found = await discovery.find("c.example")
    with pytest.raises(NoUsableAddress, match=r"loopback.*discovery\.allow_networks"):
        await discovery.addresses(found, found.targets[0])


async def test_steering_learns_in_the_background(scene):
    first, second = scene.discovery(), scene.discovery()
    assert not first.is_native("native.example")
    await first.find("native.example")
    assert first.is_native("native.example")
    assert not second.is_native("native.example")
    await settled(second)
    assert second.is_native("native.example")


async def test_steering_goes_on_with_old_news_while_asking_for_new(scene):
    discovery = scene.discovery()
    await discovery.find("native.example")
    scene.web.answers["native.example", JSON] = document(link())
    scene.now += NATIVE_TTL
    assert discovery.is_native("native.example")
    await settled(discovery)
    assert not discovery.is_native("native.example")


async def settled(discovery: Discovery) -> None:
    """Until the background work of the discovery is done."""
    while discovery._background:
        await asyncio.gather(*discovery._background)


async def test_a_domain_whose_wss_fails_is_native_for_a_while(scene):
    discovery = scene.discovery()
    await discovery.find("a.example")
    discovery.mark_native("a.example")
    found = await discovery.find("a.example")
    assert found.native
    assert found.targets
    assert found.reason == "its wss did not work lately"
    assert discovery.is_native("a.example")
    scene.now += NATIVE_TTL
    assert not discovery.is_native("a.example")
    assert not (await discovery.find("a.example")).native


async def test_a_working_session_takes_the_mark_back(scene):
    discovery = scene.discovery({"c.example": Remote(url="wss://gw.c.example/")})
    discovery.mark_native("c.example", 60)
    assert (await discovery.find("c.example")).native
    assert discovery.is_native("c.example")
    discovery.mark_working("c.example")
    discovery.mark_working("c.example")
    assert not (await discovery.find("c.example")).native


async def test_a_domain_whose_session_goes_both_ways_is_steered_to_us_whatever_it_publishes(scene):
    discovery = scene.discovery({})
    assert (await discovery.find("silent.example")).native
    assert discovery.is_native("silent.example")
    discovery.note_way_back("silent.example", 1)
    discovery.note_way_back("silent.example", 1)
    discovery.note_way_back("silent.example", -1)
    assert not discovery.is_native("silent.example")
    assert (await discovery.find("silent.example")).native  # there is still nothing to connect to
    discovery.note_way_back("silent.example", -1)
    assert discovery.is_native("silent.example")


async def test_hosts_and_sni_names_are_delegated_to(scene):
    scene.web.answers["a.example", JSON] = document(
        link("gw.a.example", sni="Front.Hoster.example"), link("93.184.216.34")
    )
    discovery = scene.discovery({"c.example": Remote(url="wss://gw.c.example/")})
    found = await discovery.find("a.example", asker="192.0.2.1")
    assert found.delegated_hosts == {"gw.a.example", "front.hoster.example"}
    found = await discovery.find("c.example", asker="192.0.2.1")
    assert found.delegated_hosts == {"gw.c.example"}


@pytest.mark.parametrize("domain", ["127.0.0.1", "2001:db8::1"])
async def test_addresses_are_no_domains_to_discover(scene, domain):
    assert (await scene.discovery().find(domain)).native


async def test_nonsense_in_redis_is_as_good_as_nothing(scene):
    await scene.discovery().find("a.example")
    good = msgspec.json.decode(scene.shared["a.example"])
    target = good["targets"][0]
    hostile: list[Any] = [
        b"",
        b"\xff",
        b"[]",
        b"[" * 5000,
        good | {"fetched_at": scene.now + 10_000},
        good | {"ttl": 10**9},
        good | {"ttl": -1},
        good | {"targets": [target | {"url": "http://127.0.0.1/"}]},
        good | {"targets": [target | {"sni": "a b"}]},
        good | {"targets": [target | {"weight": -1}]},
        good | {"targets": [target | {"priority": 1 << 40}]},
    ]
    for number, payload in enumerate(hostile, start=2):
        encoded = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        scene.shared["a.example"] = encoded
        assert (await scene.discovery().find("a.example")).source == "host-meta"
        assert scene.fetches == number


async def test_memory_is_bounded(scene, monkeypatch):
    monkeypatch.setattr("workers.gateway.discovery.MAX_DOMAINS", 2)
    discovery = scene.discovery()
    for domain in ("a.example", "b.example", "native.example"):
        await discovery.find(domain)
        discovery.mark_native(domain)
    assert len(discovery._entries) == 2
    assert len(discovery._native_until) == 2


async def test_closing_ends_what_is_under_way(scene):
    asked = asyncio.Event()

    async def never(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.Event().wait()

    scene.web.answers["a.example", JSON] = never
    discovery = scene.discovery()
    waiting = asyncio.create_task(discovery.find("a.example"))
    await asked.wait()
    await discovery.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


STRANGER = "192.0.2.1"


async def test_what_strangers_make_us_find_stays_here(scene):
    discovery = scene.discovery()
    assert (await discovery.find("a.example", asker=STRANGER)).targets
    assert (await discovery.find("native.example", asker=STRANGER)).native
    assert scene.shared == {}
    assert not discovery.is_native("native.example")
    asked = len(scene.web.asked)
    assert (await discovery.find("a.example", asker=STRANGER)).targets
    assert (await discovery.find("native.example", asker="192.0.2.2")).native
    assert len(scene.web.asked) == asked


async def test_what_strangers_found_is_good_for_us_what_they_did_not_find_is_not(scene):
    scene.web.answers["b.example", JSON] = status(503)
    discovery = scene.discovery()
    await discovery.find("a.example", asker=STRANGER)
    await discovery.find("b.example", asker=STRANGER)
    assert (await discovery.find("a.example")).targets
    assert (scene.fetches, list(scene.shared)) == (1, ["a.example"])
    scene.web.answers["b.example", JSON] = document(link())
    assert (await discovery.find("b.example")).targets
    assert not (await discovery.find("b.example")).native


async def test_names_of_strangers_do_not_push_out_ours(scene, monkeypatch):
    monkeypatch.setattr("workers.gateway.discovery.MAX_HEARD", 2)
    discovery = scene.discovery()
    await discovery.find("a.example")
    for number in range(4):
        await discovery.find(f"{number}.native.example", asker=STRANGER)
    assert len(discovery._heard) == 2
    scene.shared.clear()
    assert (await discovery.find("a.example")).targets
    assert scene.fetches == 1


async def test_a_stranger_is_told_what_we_know(scene):
    discovery = scene.discovery()
    await discovery.find("a.example")
    assert (await discovery.find("a.example", asker=STRANGER)).targets
    scene.web.answers["a.example", JSON] = status(500)
    scene.now += TTL
    assert (await discovery.find("a.example", asker=STRANGER)).source == "stale"
    assert discovery._entries["a.example"].source == "host-meta"
    stored = dict(scene.shared)
    assert (await discovery.find("a.example")).source == "stale"
    assert scene.shared == stored  # not told to others as if it were news


async def test_who_comes_when_all_places_are_taken_proves_nothing(scene, monkeypatch):
    monkeypatch.setattr("workers.gateway.fetching.PLACE_TIMEOUT", 0.05)
    scene.web.answers["a.example", JSON] = never
    discovery = scene.discovery()
    many = [discovery.find(f"{n}.example", asker=STRANGER) for n in range(MAX_TURNS_FROM)]
    for n in range(MAX_TURNS_FROM):
        scene.dns.records[f"{n}.example", "A"] = None  # no answer
    slow = [asyncio.create_task(each) for each in many]
    await asyncio.sleep(0.1)
    assert "too many lookups" in (await discovery.find("b.example", asker=STRANGER)).reason
    assert "b.example" not in discovery._heard
    scene.web.answers["b.example", JSON] = document(link())
    assert (await discovery.find("b.example", asker="192.0.2.2")).targets
    for each in slow:
        each.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def never(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()
