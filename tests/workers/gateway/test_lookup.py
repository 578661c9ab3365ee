from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.workers.gateway.https_server import ok, status
from tests.workers.gateway.web_scene import DOCUMENT, JSON, XRD, XRD_DOCUMENT, WebScene
from workers.gateway.fetching import FetchFailed
from workers.gateway.hostmeta import S2S_WEBSOCKET
from workers.gateway.lookup import look_up


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[WebScene]:
    scene = WebScene(tmp_path)
    await scene.start()
    yield scene
    await scene.close()


async def failure(scene: WebScene) -> str:
    with pytest.raises(FetchFailed) as caught:
        await look_up(scene.fetcher, "a.example")
    return f"{type(caught.value).__name__}: {caught.value.reason}"


async def test_a_published_document_is_fetched(scene):
    scene.answer(JSON, ok(DOCUMENT))
    document = await look_up(scene.fetcher, "a.example")
    assert document.ttl == 3600
    assert document.targets[0].host == "gw.a.example"
    assert scene.web.asked == [f"a.example{JSON}"]
    assert "cookie" not in scene.web.heads[0].lower()


async def test_without_json_the_xrd_is_asked(scene):
    scene.answer(XRD, ok(XRD_DOCUMENT))
    document = await look_up(scene.fetcher, "a.example")
    assert document.targets[0].host == "xrd.a.example"
    assert scene.web.asked == [f"a.example{JSON}", f"a.example{XRD}"]


async def test_json_with_nothing_for_us_lets_the_xrd_speak(scene):
    scene.answer(JSON, ok({"links": []}))
    scene.answer(XRD, ok(XRD_DOCUMENT))
    assert (await look_up(scene.fetcher, "a.example")).targets


async def test_a_complete_document_without_s2s_is_the_last_word(scene):
    scene.answer(JSON, ok({"links": [], "xmpp": {"ttl": 60}}))
    scene.answer(XRD, ok(XRD_DOCUMENT))
    assert "Absent: host-meta.json of a.example lists no s2s" in await failure(scene)


async def test_a_domain_without_documents_offers_nothing(scene):
    assert "Absent: a.example publishes no s2s WebSocket" in await failure(scene)


async def test_a_document_that_makes_no_sense_is_no_absence(scene):
    scene.answer(JSON, ok(b"<html>"))
    assert "Unavailable: host-meta.json of a.example: not a host-meta" in await failure(scene)
    scene.answer(JSON, ok({"links": [{"rel": S2S_WEBSOCKET, "href": "ws://a.example"}]}))
    assert "Unavailable: host-meta.json of a.example: URL is not wss" in await failure(scene)


async def test_a_failing_web_server_is_no_absence(scene):
    scene.answer(JSON, status(503))
    assert "Unavailable" in (reason := await failure(scene))
    assert "HTTP status 503" in reason


async def test_where_json_is_refused_the_xrd_is_asked(scene):
    scene.answer(JSON, status(403))
    scene.answer(XRD, ok(XRD_DOCUMENT))
    assert (await look_up(scene.fetcher, "a.example")).targets
    scene.answer(XRD, status(500))
    assert "HTTP status 403" in await failure(scene)


async def test_an_xrd_that_is_refused_is_no_absence(scene):
    scene.answer(XRD, status(500))
    assert "BadAnswer" not in (reason := await failure(scene))
    assert "Unavailable" in reason and "HTTP status 500" in reason
