"""What strangers make us look up: answered, kept apart from ours, and limited."""

import asyncio

from tests.workers.gateway.discovery_scene import JSON, TTL, document, link
from tests.workers.gateway.https_server import status
from workers.gateway.fetching import MAX_TURNS_FROM

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
