import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.datastructures import Headers
from websockets.http11 import Request

from coordinator.config import Config, Gateway, WebSocket
from tests.workers.gateway.stub_dns import StubDns
from workers.gateway.hostmeta import InvalidHostMeta, parse_json, parse_xrd
from workers.gateway.publication import Publication, find_addresses
from workers.gateway.resolver import Resolver

URL = "wss://gw.a.example/xmpp-s2s"


def config(*listen: str, url: str = URL, tls: bool = True) -> Config:
    return Config(
        gateway=Gateway(domains=("a.example",)),
        websocket=WebSocket(listen=listen or ("[::]:443",), public_url=url, tls=tls),
    )


@pytest_asyncio.fixture
async def dns() -> AsyncIterator[StubDns]:
    server = await StubDns.start()
    server.records["gw.a.example", "A"] = ["93.184.216.34"]
    yield server
    server.close()


@pytest.fixture
def resolver(dns: StubDns) -> Resolver:
    return Resolver([dns.address], timeout=1)


def get(publication: Publication, path: str) -> tuple[str, bytes] | None:
    response = publication(Request(path, Headers()))
    if response is None:
        return None
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Content-Length"] == str(len(response.body))
    assert response.headers["Cache-Control"] == "max-age=3600"
    return response.headers["Content-Type"], bytes(response.body)


async def test_both_documents_are_served_with_cors(resolver):
    publication = Publication(config(), resolver)
    await publication.refresh()
    content_type, body = get(publication, "/.well-known/host-meta.json")
    assert content_type == "application/json"
    (target,) = parse_json(body).targets
    assert (target.url, target.ips) == (URL, ("93.184.216.34",))
    content_type, body = get(publication, "/.well-known/host-meta?x=y")
    assert content_type == "application/xrd+xml"
    assert parse_xrd(body).targets[0].url == URL


async def test_other_paths_are_somebody_elses(resolver):
    publication = Publication(config(), resolver)
    assert get(publication, "/") is None
    assert get(publication, "/.well-known/host-meta.json/") is None


async def test_addresses_follow_dns(dns, resolver):
    dns.ttl = 0
    publication = Publication(config(), resolver)
    await publication.refresh()
    dns.records["gw.a.example", "A"] = ["93.184.216.35"]
    await publication.refresh()
    assert b"93.184.216.35" in publication.json


async def test_without_addresses_a_minimal_document_is_served_and_said(dns, resolver, caplog):
    del dns.records["gw.a.example", "A"]
    publication = Publication(config(), resolver)
    await publication.refresh()
    await publication.refresh()
    assert publication.warning.startswith(f"no public address is known for {URL}")
    assert len(caplog.records) == 1
    assert "ips" not in json.loads(publication.json)["links"][0]
    dns.records["gw.a.example", "A"] = ["93.184.216.34"]


async def test_public_listeners_are_published_without_asking_dns(dns, resolver):
    found = await find_addresses(config("93.184.216.40:443", "[2606:2800::1]:443"), resolver)
    assert found == ["93.184.216.40", "2606:2800::1"]
    assert not dns.asked


@pytest.mark.parametrize(
    "made",
    [
        config("0.0.0.0:443", "[::]:443"),
        config("93.184.216.40:8443"),
        config("93.184.216.40:443", tls=False),
        config("10.0.0.1:443"),
        config("gw.a.example:443", "/run/x"),
    ],
    ids=["wildcard", "other-port", "behind-proxy", "behind-nat", "named"],
)
async def test_else_the_public_name_is_resolved(resolver, made):
    assert await find_addresses(made, resolver) == ["93.184.216.34"]


async def test_private_listeners_are_the_last_resort(dns, resolver):
    made = config("10.0.0.1:443", url="wss://unknown.a.example/")
    assert await find_addresses(made, resolver) == ["10.0.0.1"]


async def test_a_literal_in_the_public_url_is_its_own_address(resolver):
    made = config(url="wss://93.184.216.50:8443/x")
    assert await find_addresses(made, resolver) == ["93.184.216.50"]


def test_a_public_url_that_is_none_is_an_error_at_start():
    with pytest.raises(InvalidHostMeta):
        Publication(config(url="gw.a.example"), Resolver(["127.0.0.1"]))


async def test_it_is_kept_fresh_until_stopped(resolver, monkeypatch):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise InterruptedError

    monkeypatch.setattr("workers.gateway.publication.asyncio.sleep", sleep)
    publication = Publication(config("93.184.216.40:443"), resolver)
    with pytest.raises(InterruptedError):
        await publication.keep_fresh()
    assert waits == [1800, 1800]
    assert b"93.184.216.40" in publication.json
