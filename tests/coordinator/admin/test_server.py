import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp.test_utils import TestClient, TestServer

from coordinator.admin.overview import Overview
from coordinator.admin.server import AdminServer, application
from coordinator.config import Config
from coordinator.embedded import EmbeddedRedis
from coordinator.listeners import bind_all
from coordinator.query import fetch
from coordinator.reception import Link


@pytest.fixture
async def browser(overview: Overview) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(application(overview))) as client:
        yield client
    await overview._store.close()


async def test_liveness_needs_nothing_else(browser: TestClient):
    assert (await browser.get("/livez")).status == 200


async def test_readiness_fails_only_when_nobody_accepts(
    browser: TestClient, overview: Overview, connect: Callable[..., Link]
):
    answer = await browser.get("/readyz")
    assert answer.status == 503
    connect(1, {})
    overview.redis_up = False
    answer = await browser.get("/readyz")
    assert answer.status == 200
    assert (await answer.json())["degraded"] == ["redis", "worker:w2"]


async def test_an_old_load_balancer_is_answered_about_health_alone(browser: TestClient):
    answers = []
    for path in ("/livez", "/readyz", "/api/status"):
        reader, writer = await asyncio.open_connection(browser.host, browser.port)
        # HAProxy's `option httpchk GET /livez`.
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answers.append((await reader.readline()).split()[1])
        writer.close()
    assert answers == [b"200", b"503", b"403"]  # ready when a worker accepts


@pytest.mark.parametrize(
    ("noun", "kind"),
    [
        ("status", dict),
        ("workers", list),
        ("sessions", list),
        ("ledger", dict),
        ("errors", list),
        ("config", dict),
    ],
)
async def test_each_noun_is_json(browser: TestClient, noun: str, kind: type):
    answer = await browser.get(f"/api/{noun}")
    assert answer.status == 200
    assert isinstance(await answer.json(), kind)
    assert answer.headers["Cache-Control"] == "no-store"


async def test_routes_need_redis(browser: TestClient, redis: EmbeddedRedis):
    answer = await browser.get("/api/routes")
    assert (answer.status, await answer.json()) == (200, [])
    await redis.stop()
    answer = await browser.get("/api/routes")
    assert answer.status == 503
    assert "error" in await answer.json()


async def test_the_page_and_the_metrics_are_served(browser: TestClient):
    page = await browser.get("/")
    assert page.content_type == "text/html"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    metrics = await browser.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "fedgate_info" in await metrics.text()


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
@pytest.mark.parametrize("path", ["/", "/api/status", "/metrics", "/livez", "/nonsense"])
async def test_other_sites_are_told_nothing(browser: TestClient, headers: dict, path: str):
    for method in ("GET", "POST", "OPTIONS"):
        answer = await browser.request(method, path, headers=headers)
        assert answer.status == 403
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


async def test_configured_names_are_served(browser: TestClient, overview: Overview):
    admin = dataclasses.replace(overview.settings.admin, names=("gw1.internal",))
    overview.settings = dataclasses.replace(overview.settings, admin=admin)
    assert (await browser.get("/livez", headers={"Host": "gw1.internal:5290"})).status == 200


async def test_nothing_can_be_changed(browser: TestClient):
    assert (await browser.post("/api/status")).status == 405
    assert (await browser.get("/api/nonsense")).status == 404


async def test_it_serves_on_the_sockets_it_is_given(overview: Overview, config: Config):
    import asyncio

    bound = bind_all(config, shared=False)
    server = AdminServer(overview, bound.admin)
    await server.start()
    assert (await asyncio.to_thread(fetch, config, "status"))["name"] == "gw1"
    await server.close()
    bound.close()


@pytest.mark.parametrize(("limit", "status"), [("5", 200), ("many", 400), ("-1", 400)])
async def test_sessions_may_be_limited(browser: TestClient, limit: str, status: int):
    assert (await browser.get("/api/sessions", params={"limit": limit})).status == status
