"""What steering knows of a domain at once: native or not, and how that changes."""

import asyncio

from coordinator.config import Remote
from tests.workers.gateway.discovery_scene import JSON, NATIVE_TTL, document, link
from workers.gateway.discovery import Discovery


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
