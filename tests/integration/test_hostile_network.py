"""A gateway whose strangers choose where it looks: it asks nobody it should not, and few of those.

Each stranger says to be a domain of its own and offers a dialback key for it, so that the gateway
goes to look for that domain. Where it must not go there is somebody who takes notes.
"""

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
import redis.asyncio as redis_asyncio

from loadtest.stage.peers import XmppProxyPeer
from loadtest.stage.wire import Wire
from tests.integration.lone_gateway import OWN, WEB, LoneGateway
from tests.workers.gateway.https_server import Writer, ok, status
from tests.workers.gateway.tcp import silent_listener
from workers.gateway.addresses import is_of_this_machine
from workers.gateway.fetching import LEAST_TURN, MAX_TURNS_ABOUT
from workers.gateway.hostmeta import S2S_WEBSOCKET

JSON = "/.well-known/host-meta.json"
INSIDE, ELSEWHERE, VICTIM = 200, 31, 32
PORTS = (443, 5347, 6443)
EVIL = "evil.example"


class Canary:
    """Listens where nobody should be led to."""

    def __init__(self) -> None:
        self.visits: list[str] = []
        self._servers: list[asyncio.Server] = []

    async def start(self, *addresses: str) -> None:
        for address in addresses:
            for port in PORTS:
                server = await asyncio.start_server(self._visited, address, port)
                self._servers.append(server)

    def _visited(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits.append(str(writer.get_extra_info("sockname")))
        writer.close()

    async def stop(self) -> None:
        for server in self._servers:
            server.close()


class Leading(XmppProxyPeer):
    """A good endpoint that leads on, by see-other-uri (RFC 7395 §3.6.1)."""

    leads_to = ""

    async def serve(self, wire: Wire) -> None:
        await self.receive(wire)
        self._answer_open(wire, OWN, "")
        ns = "urn:ietf:params:xml:ns:xmpp-framing-server"
        self.send(wire, f"<close xmlns='{ns}' see-other-uri='{self.leads_to}'/>")
        wire.end()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lone() -> AsyncIterator[LoneGateway]:
    lone = LoneGateway()
    try:
        await lone.start(EVIL, f"*.{EVIL}", "victim.example", "*.victim.example")
        yield lone
    finally:
        await lone.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def canary(lone: LoneGateway) -> AsyncIterator[Canary]:
    canary = Canary()
    here = (lone.here, lone.machines.of(INSIDE), "::1")
    await canary.start(*filter(is_of_this_machine, here))  # not everybody has IPv6
    yield canary
    await canary.stop()


def lead(lone: LoneGateway, name: str, answer: Any, **records: list[str]) -> str:
    """A domain whose web server is reachable and gives this answer."""
    domain = f"{name}.{EVIL}"
    lone.dns.records[domain, "A"] = [lone.machines.of(WEB)]
    lone.web.answers[domain, JSON] = answer
    for kind, texts in records.items():
        lone.dns.records[f"inside.{domain}", kind] = texts
    return domain


def link(href: str, *ips: str) -> bytes:
    fields = {"ips": list(ips), "priority": 1, "weight": 1} if ips else {}
    return ok({"links": [{"rel": S2S_WEBSOCKET, "href": href, **fields}]})


def names_that_lead_inside(lone: LoneGateway) -> list[str]:
    """Domains whose own addresses are those of somebody else's network."""
    here, inside = lone.here, lone.machines.of(INSIDE)
    addresses = {
        "A": [here, inside, "0.0.0.0", "169.254.169.254", "100.64.0.1", "224.0.0.1", "192.168.0.1"],
        "AAAA": ["::1", f"::ffff:{here}", f"64:ff9b::{here}", f"::ffff:0:{here}", f"::{here}"],
    }
    domains = []
    for kind, texts in addresses.items():
        for number, text in enumerate(texts):
            domain = f"{kind.lower()}{number}.{EVIL}"
            lone.dns.records[domain, kind] = [text]
            domains.append(domain)
    return domains


def targets_that_lead_inside(lone: LoneGateway) -> list[str]:
    """Domains that publish an endpoint in somebody else's network."""
    here, inside = lone.here, lone.machines.of(INSIDE)
    number = int.from_bytes(map(int, here.split(".")))
    hrefs = [
        *(f"wss://{here}/", f"wss://{here}:6443/", f"wss://{inside}/", "wss://[::1]:6443/"),
        *(f"wss://[::ffff:{here}]/", f"wss://[64:ff9b::{here}]/", f"wss://[::{here}]/"),
        *(f"wss://{number}/", f"wss://{number:#x}/", "wss://127.1/", "wss://localhost:6443/"),
        *(f"ws://{here}/", f"https://{here}/", f"wss://u@{here}/", f"wss://{here}%00.{EVIL}/"),
        f"wss://{EVIL}/{'x' * 5000}",
    ]
    domains = [lead(lone, f"href{n}", link(href)) for n, href in enumerate(hrefs)]
    many = [here, inside, "::1", f"::ffff:{here}", "169.254.169.254"]
    domains.append(lead(lone, "ips", link(f"wss://{here}:6443/", *many)))
    domains.append(lead(lone, "name", link(f"wss://inside.name.{EVIL}/"), A=[here], AAAA=["::1"]))
    return domains


def redirects_that_lead_inside(lone: LoneGateway) -> list[str]:
    here = lone.here
    locations = [
        *(f"https://{here}/", f"http://{here}/", f"https://{here}:6443/", "https://[::1]/"),
        *(f"https://inside.redirect.{EVIL}/", f"//{here}/", f"https://u:p@{here}/", JSON),
        *(f"https://{here}%00.{EVIL}/", "file:///etc/passwd", f"gopher://{here}:6443/"),
    ]
    lone.dns.records[f"inside.redirect.{EVIL}", "A"] = [here]
    return [
        lead(lone, f"redirect{n}", status(302, f"Location: {location}"))
        for n, location in enumerate(locations)
    ]


def bodies_that_never_do(lone: LoneGateway) -> list[str]:
    async def dribble(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.2)

    async def flood(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
            await writer.drain()

    bomb = gzip.compress(b" " * 50_000_000)
    deep = b'{"links":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    answers = {
        "slow": dribble,
        "endless": flood,
        "bomb": ok(bomb, "Content-Encoding: gzip"),
        "deep": ok(deep),
        "latin": ok(b"\xff\xfe\x00{"),
    }
    return [lead(lone, name, answer) for name, answer in answers.items()]


async def claims(lone: LoneGateway, domains: list[str]) -> list[str]:
    """All of them are said to be, a few at a time, as one address may have so many questions."""
    answers = []
    for start in range(0, len(domains), 8):
        batch = domains[start : start + 8]
        answers += await asyncio.gather(*(lone.claim(domain) for domain in batch))
    return answers


async def expect_refused(lone: LoneGateway, canary: Canary, domains: list[str]) -> None:
    before = await lone.gateway.worker_pids()
    answers = dict(zip(domains, await claims(lone, domains), strict=True))
    assert set(answers.values()) == {"error"}, answers
    assert canary.visits == []
    assert await lone.gateway.worker_pids() == before


async def test_ssrf_01_names(lone: LoneGateway, canary: Canary) -> None:
    await expect_refused(lone, canary, names_that_lead_inside(lone))


async def test_ssrf_02_targets(lone: LoneGateway, canary: Canary) -> None:
    domains = targets_that_lead_inside(lone)
    await expect_refused(lone, canary, domains)
    assert {f"{domain}{JSON}" for domain in domains} <= set(lone.web.asked)  # all were looked at


async def test_ssrf_03_redirects(lone: LoneGateway, canary: Canary) -> None:
    domains = redirects_that_lead_inside(lone)
    await expect_refused(lone, canary, domains)
    asked = [path for path in lone.web.asked if path.startswith("redirect")]
    assert len(asked) <= 2 * len(domains) + 3  # JSON and XRD of each, and what led to itself


async def test_ssrf_04_dns_that_changes_its_mind(lone: LoneGateway, canary: Canary) -> None:
    """Rebinding: good when it is checked, another when it is connected to."""
    domain = lead(lone, "rebinding", link(f"wss://inside.rebinding.{EVIL}/"))
    lone.dns.ttl = 0
    turns = [[lone.machines.of(WEB)], [lone.here]]

    class Turning(dict[tuple[str, str], Any]):
        def get(self, key: tuple[str, str], default: Any = None) -> Any:
            if key in ((domain, "A"), (f"inside.{domain}", "A")):
                turns.reverse()
                return turns[0]
            return super().get(key, default)

    lone.dns.records = Turning(lone.dns.records)
    try:
        for _ in range(4):
            assert await lone.claim(domain) == "error"
    finally:
        lone.dns.ttl = 60
    assert canary.visits == []


async def test_ssrf_05_bodies(lone: LoneGateway, canary: Canary) -> None:
    started = time.monotonic()
    await expect_refused(lone, canary, bodies_that_never_do(lone))
    assert time.monotonic() - started < 10


async def test_ssrf_06_see_other_uri(lone: LoneGateway, canary: Canary) -> None:
    address = lone.machines.of(ELSEWHERE)
    for n, uri in enumerate([f"wss://{lone.here}/", f"ws://{address}/", "wss://[::1]:6443/"]):
        host = f"leading{n}.{EVIL}"
        peer = Leading(host, address, lone.authority.issue(host))
        peer.leads_to = uri
        await peer.start()
        domain = lead(lone, f"leading{n}", link(f"wss://{host}/xmpp-s2s", address))
        await expect_refused(lone, canary, [domain])
        assert len(peer.wires) == 1  # it was asked, and led to nowhere
        await peer.stop()


async def test_ssrf_07_endpoints_that_do_not_answer_end_in_time(lone: LoneGateway) -> None:
    addresses = [lone.machines.of(60 + n) for n in range(12)]
    with contextlib.ExitStack() as stack:
        for address in addresses:
            stack.enter_context(silent_listener(address))
        domain = lead(lone, "silent", link(f"wss://silent.{EVIL}/", *addresses))
        started = time.monotonic()
        assert await lone.claim(domain) == "error"
        assert time.monotonic() - started < 15


async def test_a_flood_of_names_leaves_its_victim_and_redis_alone(lone: LoneGateway) -> None:
    """Anybody can make up names under somebody's domain; each would be a lookup there."""
    names = [f"n{number}.victim.example" for number in range(24)]
    for name in names:
        lone.dns.records[name, "A"] = [lone.machines.of(WEB)]
    started = time.monotonic()
    answers = await asyncio.gather(*(lone.claim(name) for name in names))
    seconds = time.monotonic() - started
    assert set(answers) == {"error"}
    asked = {path.partition("/")[0] for path in lone.web.asked if ".victim.example/" in path}
    assert 1 <= len(asked) <= MAX_TURNS_ABOUT * (seconds / LEAST_TURN + 1)
    client = redis_asyncio.Redis.from_url(lone.redis_url)
    try:
        kept = [key async for key in client.scan_iter("*")]
    finally:
        await client.aclose()
    assert not [key for key in kept if b"victim" in key or b"evil" in key]
