import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.workers.gateway.https_server import ok, status
from tests.workers.gateway.tcp import silent_listener
from tests.workers.gateway.web_scene import ADDRESS, DOCUMENT, JSON, WebScene
from tests.workers.gateway.x509_matrix import CLIENT, Authority, dns
from workers.gateway import fetching
from workers.gateway.addresses import AddressPolicy
from workers.gateway.fetching import (
    MAX_ADDRESSES,
    MAX_TURNS_ABOUT,
    MAX_TURNS_FROM,
    Busy,
    Fetcher,
)
from workers.gateway.hostmeta import MAX_DOCUMENT


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[WebScene]:
    scene = WebScene(tmp_path)
    await scene.start()
    yield scene
    await scene.close()


async def test_redirects_over_https_are_followed(scene):
    scene.answer(JSON, status(301, f"Location: https://www.a.example{JSON}"))
    scene.answer(JSON, status(302, "Location: /moved"), host="www.a.example")
    scene.answer("/moved", ok(DOCUMENT), host="www.a.example")
    assert await scene.get()


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://www.a.example/x", "not https on 443"),
        ("https://www.a.example:8443/x", "not https on 443"),
        ("https://user@www.a.example/x", "user part"),
        ("https://169.254.169.254/latest", "metadata"),
        ("https://[::ffff:10.0.0.1]/", "private"),
        ("https://[::ffff:0:10.0.0.1]/", "private"),
        ("https://[fe80::1%25eth0]/", "link-local"),
        ("https://2130706433/", "not a canonical IPv4"),
        ("https://127.1/", "not a canonical IPv4"),
        ("https://0x7f000001/", "does not exist in DNS"),
        ("https://127.0.0.1%00.a.example/", "malformed"),
        ("https://a.example\x00.b.example/", "Invalid HTTP header"),
        ("https://www.a.example/" + "x" * 2048, "longer than 2048"),
        ("file:///etc/passwd", "malformed"),
        ("//www.a.example:80/", "not https on 443"),
        ("https://private.a.example/", "private"),
        ("https://unknown.a.example/", "does not exist in DNS"),
        ("https://[broken/", "malformed"),
        (JSON, "redirects more than 3 times"),
        ("", "nowhere"),
    ],
)
async def test_redirects_to_elsewhere_are_refused(scene, location, reason):
    scene.dns.records["private.a.example", "A"] = ["10.0.0.1"]
    scene.answer(JSON, status(307, f"Location: {location}"))
    assert reason in await scene.failure()
    assert len(scene.web.asked) <= 4


@pytest.mark.parametrize(
    "url", ["http://a.example/", "https://a@a.example/", "https://a.example:8/"]
)
async def test_the_first_url_is_checked_like_all_others(scene, url):
    assert "BadAnswer" in await scene.failure(url)
    assert not scene.web.asked


async def test_private_addresses_are_refused_when_resolved(scene):
    scene.use("192.0.2.0/24")
    scene.answer(JSON, ok(DOCUMENT))
    reason = await scene.failure()
    assert "a.example: address 127.0.77.1 is loopback" in reason
    assert "discovery.allow_networks" in reason
    assert not scene.web.asked


async def test_private_addresses_are_refused_when_connecting(scene, monkeypatch):
    """As if DNS had been asked twice and answered differently (rebinding)."""
    scene.answer(JSON, ok(DOCUMENT))
    scene.use("192.0.2.0/24")
    monkeypatch.setattr(AddressPolicy, "permitted", lambda self, addresses: list(addresses))
    assert "address 127.0.77.1 is loopback" in await scene.failure()
    assert not scene.web.asked


async def test_of_several_addresses_only_permitted_ones_are_tried(scene):
    scene.dns.records["a.example", "A"] = ["127.0.0.1", ADDRESS]
    scene.answer(JSON, ok(DOCUMENT))
    assert await scene.get()


async def test_a_slow_body_ends_at_the_timeout(scene):
    gone = asyncio.Event()

    async def dribble(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await gone.wait()

    scene.use(timeout=0.3)
    scene.answer(JSON, dribble)
    assert "gave no answer within 0.3 s" in await scene.failure()
    gone.set()


async def test_a_body_that_never_ends_is_cut(scene):
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
            await writer.drain()

    scene.answer(JSON, flood)
    assert f"larger than {MAX_DOCUMENT} bytes" in await scene.failure()


async def test_compressed_bodies_are_never_inflated(scene):
    bomb = gzip.compress(b" " * 10_000_000)
    scene.answer(JSON, ok(bomb, "Content-Encoding: gzip"))
    assert "compressed" in await scene.failure()


async def test_a_connection_cut_in_the_middle_is_a_failure(scene):
    scene.answer(JSON, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    assert "Unavailable: cannot fetch https://a.example" in await scene.failure()
    scene.answer(JSON, b"what?\r\n\r\n")
    assert "Unavailable: cannot fetch https://a.example" in await scene.failure()


async def test_the_certificate_must_be_for_the_domain(scene):
    scene.dns.records["b.example", "A"] = [ADDRESS]
    scene.answer(JSON, ok(DOCUMENT), host="b.example")
    reason = await scene.failure(f"https://b.example{JSON}")
    assert "certificate of b.example is not good for https: Hostname mismatch" in reason
    assert not scene.web.asked


async def test_the_certificate_must_be_from_a_trusted_authority(scene):
    scene.bundle.write_bytes(Authority().pem)
    scene.answer(JSON, ok(DOCUMENT))
    assert "certificate of a.example is not good for https" in await scene.failure()
    scene.use()
    scene.bundle.unlink()
    assert "cannot read the trust bundle" in await scene.failure()


async def test_the_certificate_must_be_for_servers(scene, tmp_path):
    await scene.web.close()
    leaf = scene.authority.issue(dns("a.example"), usage=[CLIENT])
    await scene.web.start(ADDRESS, Fetcher.HTTPS_PORT, leaf, tmp_path)
    assert "purpose" in await scene.failure()


async def test_nobody_there_is_one_clear_line(scene):
    scene.dns.records["b.example", "A"] = ["127.0.77.9"]
    assert "cannot connect to b.example port 443" in await scene.failure(f"https://b.example{JSON}")
    assert "c.example does not exist in DNS" in await scene.failure("https://c.example/")


async def test_headers_without_end_are_cut(scene):
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-More: " + b"x" * 8000 + b"\r\n")
            await writer.drain()

    scene.answer(JSON, flood)
    assert "Unavailable: cannot fetch" in await scene.failure()


async def test_a_host_with_many_addresses_is_not_tried_for_ever(scene):
    scene.dns.records["b.example", "A"] = [f"127.0.77.{number}" for number in range(2, 200)]
    tried = []
    make = scene.fetcher._make_socket
    scene.fetcher._make_socket = lambda address: tried.append(address) or make(address)
    assert "cannot connect" in await scene.failure("https://b.example/")
    assert len({where for *_, where in tried}) == MAX_ADDRESSES
    assert len(tried) <= 10


async def test_the_second_address_does_not_wait_for_the_first_to_give_up(scene):
    """RFC 8305: the first one has a queue that is full, so that nobody answers there."""
    with silent_listener("127.0.77.2"):
        scene.dns.records["a.example", "A"] = ["127.0.77.2", ADDRESS]
        scene.answer(JSON, ok(DOCUMENT))
        async with asyncio.timeout(2):
            assert await scene.get()


async def hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def test_strangers_have_few_places_and_never_ours(scene, monkeypatch):
    monkeypatch.setattr(fetching, "PLACE_TIMEOUT", 0.2)
    scene.answer(JSON, ok(DOCUMENT))
    scene.answer("/", hang)
    scene.dns.records |= {(f"{n}.b.example", "A"): [ADDRESS] for n in range(100)}

    async def ask(domain: str, asker: str) -> None:
        async with scene.fetcher.turn(domain, asker=asker) as get:
            await get("https://a.example/")

    askers = [ask(f"{n}.b.example", f"192.0.2.{n}") for n in range(100)]  # about one site
    askers += [ask(f"{n}.example", "192.0.2.200") for n in range(100)]  # for one stranger
    flood = [asyncio.create_task(each) for each in askers]
    await asyncio.wait(flood, timeout=0.5)
    refused = [each for each in flood if each.done()]
    assert all(isinstance(each.exception(), Busy) for each in refused)
    assert len(flood) - len(refused) == MAX_TURNS_ABOUT + MAX_TURNS_FROM
    assert await scene.get()
    for each in flood:
        each.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_strangers_cannot_make_us_flood_a_site(scene):
    scene.answer(JSON, ok(DOCUMENT))
    end = asyncio.get_running_loop().time() + 1.2

    async def insist(number: int) -> None:
        while asyncio.get_running_loop().time() < end:
            async with scene.fetcher.turn("a.example", asker=f"192.0.2.{number}") as get:
                await get(f"https://a.example{JSON}")

    insisting = [asyncio.create_task(insist(number)) for number in range(20)]
    await asyncio.wait(insisting, timeout=1.2)
    # Places are given back after half a second: three times four of them in this time.
    assert 4 <= len(scene.web.asked) <= 3 * MAX_TURNS_ABOUT
    for each in insisting:
        each.cancel()
    await asyncio.gather(*insisting, return_exceptions=True)
