"""What the configuration says of a domain, and which addresses its targets may have."""

import pytest

from coordinator.config import Remote
from tests.workers.gateway.discovery_scene import JSON, document, link
from tests.workers.gateway.x509_matrix import Authority
from workers.gateway.discovery import NoUsableAddress
from workers.gateway.hostmeta import parse_url


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


async def test_hostnames_of_configured_urls_obey_the_policy(scene):
    scene.dns.records["gw.c.example", "A"] = ["127.0.0.1"]
    discovery = scene.discovery({"c.example": Remote(url="wss://gw.c.example/")})
    found = await discovery.find("c.example")
    with pytest.raises(NoUsableAddress, match=r"loopback.*discovery\.allow_networks"):
        await discovery.addresses(found, found.targets[0])


async def test_hosts_and_sni_names_are_delegated_to(scene):
    scene.web.answers["a.example", JSON] = document(
        link("gw.a.example", sni="Front.Hoster.example"), link("93.184.216.34")
    )
    discovery = scene.discovery({"c.example": Remote(url="wss://gw.c.example/")})
    found = await discovery.find("a.example", asker="192.0.2.1")
    assert found.delegated_hosts == {"gw.a.example", "front.hoster.example"}
    found = await discovery.find("c.example", asker="192.0.2.1")
    assert found.delegated_hosts == {"gw.c.example"}
