"""What a domain publishes is asked for once, kept for its time and shared by the workers."""

import asyncio
from typing import Any

import msgspec
import pytest

from tests.workers.gateway.discovery_scene import ADDRESS, JSON, NATIVE_TTL, TTL, document, link
from tests.workers.gateway.https_server import ok, status
from workers.gateway.discovery import STALE_KEEP, STALE_RETRY


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
