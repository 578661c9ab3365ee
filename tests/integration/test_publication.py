"""What a running gateway shows the world on its one public port, and that all workers serve it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree

import aiohttp
import pytest
import pytest_asyncio

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.gateway import Gateway
from loadtest.stage.peers import XmppProxyPeer
from loadtest.stage.stage import CAPULET, CAPULET_ROOMS, Stage
from loadtest.stage.website import HOST_META, S2S_WEBSOCKET

VERONA = "verona.example"
XRD = "{http://docs.oasis-open.org/ns/xri/xrd-1.0}"
# More than one worker takes by chance while the others sleep.
GUESTS = 24


@pytest_asyncio.fixture(loop_scope="session")
async def web(stage: Stage) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context(cafile=str(stage.authority.bundle))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session


async def get(
    web: aiohttp.ClientSession, gateway: Gateway, domain: str, path: str
) -> tuple[aiohttp.ClientResponse, bytes]:
    url = f"https://{gateway.address}:{WEBSOCKET_PORT}{path}"
    async with web.get(url, headers={"Host": domain}, server_hostname=domain) as response:
        return response, await response.read()


@pytest.mark.parametrize("domain", [CAPULET, CAPULET_ROOMS])
async def test_host_meta_has_every_field_that_xmpp_proxy_demands(
    stage: Stage, web: aiohttp.ClientSession, domain: str
) -> None:
    gateway = stage.capulet_gateway
    response, body = await get(web, gateway, domain, HOST_META)
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    document: dict[str, Any] = json.loads(body)
    # serde refuses the document, and with it the domain, when a field is missing or too large.
    assert 0 < document["xmpp"]["ttl"] <= 65535
    (link,) = (each for each in document["links"] if each["rel"] == S2S_WEBSOCKET)
    assert link["href"] == f"wss://{gateway.public_host}/xmpp-s2s"
    assert link["ips"] == [gateway.address]
    assert link["sni"] == gateway.public_host
    assert all(type(link[key]) is int and 0 <= link[key] <= 65535 for key in ("priority", "weight"))


async def test_the_xml_document_names_the_same_endpoint(
    stage: Stage, web: aiohttp.ClientSession
) -> None:
    gateway = stage.capulet_gateway
    response, body = await get(web, gateway, CAPULET, "/.well-known/host-meta")
    assert (response.status, response.content_type) == (200, "application/xrd+xml")
    links = ElementTree.fromstring(body).findall(f"{XRD}Link")
    assert (S2S_WEBSOCKET, f"wss://{gateway.public_host}/xmpp-s2s") in {
        (link.get("rel"), link.get("href")) for link in links
    }


async def test_other_paths_are_not_found(stage: Stage, web: aiohttp.ClientSession) -> None:
    for path in ("/", "/.well-known/host-meta.jsonx", "/xmpp-s2s/x", "/../../etc/passwd"):
        response, _ = await get(web, stage.capulet_gateway, CAPULET, path)
        assert response.status == 404, path


async def test_every_worker_accepts_on_the_one_port(stage: Stage) -> None:
    gateway = stage.capulet_gateway
    peer = XmppProxyPeer(VERONA, stage.actor_address(131), stage.authority.issue(VERONA))
    url = f"wss://{CAPULET}/xmpp-s2s"
    try:
        wires = await asyncio.gather(
            *(peer.connect(url, gateway.address, CAPULET) for _ in range(GUESTS))
        )
        sessions = await gateway.wait_session(VERONA, "inbound", count=len(wires))
        workers = {each["id"] for each in await gateway.api("workers")}
        assert len(workers) == 2
        assert {session["worker"] for session in sessions} == workers
    finally:
        await peer.stop()
