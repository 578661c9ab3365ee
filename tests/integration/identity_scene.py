"""One gateway among played servers, for the numbered tests of who is who (AU and BI).

The local server and the remote ones run in this process. What a remote shows is made anew by each
test: leaves of the matrix, of any authority, or none.
"""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from loadtest.stage import processes
from loadtest.stage.addresses import DNS_PORT, LOCAL_PORT, S2S_PORT, Addresses
from loadtest.stage.authority import KeyPair
from loadtest.stage.dns import StageDns
from loadtest.stage.gateway import Gateway
from loadtest.stage.peers import DIALBACK_FEATURE, FRAMING, SASL, STREAMS, Peer, attribute
from loadtest.stage.wire import Wire, WireClosed, dial, tls_context
from tests.workers.gateway.certificate_cells import DOMAIN, Matrix
from tests.workers.gateway.session_bench import FarServer
from tests.workers.gateway.x509_matrix import Authority, Leaf, dns
from workers.gateway.certificates import load_pair
from workers.gateway.negotiation import Negotiation, NoOwner
from workers.gateway.tcp_session import TcpSession
from workers.gateway.tls import client_context, server_context
from workers.xmpp.framing import StreamFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.parser import StreamParser
from workers.xmpp.stream import StreamConfig

CAPULET = "capulet.example"
# Domains under one policy each, and where the gateway dials them (see `IdentityScene.address`).
STRICT, BOUND, KEYS = "strict.example", "bound.example", "keys.example"
PARTNER = "partner.example"
"""Has a bundle of authorities of its own."""
POLICIES = {
    DOMAIN: ["external", "dialback"],
    STRICT: ["external"],
    BOUND: ["dialback-with-cert"],
    KEYS: ["dialback"],
}
BIDI = "<bidi xmlns='urn:xmpp:bidi'/>"
BIDI_FEATURE = "<bidi xmlns='urn:xmpp:features:bidi'/>"
WITHIN = 10.0


class IdentityScene:
    """Start with `start()`, end with `stop()`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fedgate-identity-", dir="/tmp")
        self.directory = Path(self._folder.name)
        self.addresses = Addresses()
        self.matrix = Matrix()
        self.bundle = self.directory / "ca.pem"
        self.bundle.write_bytes(self.matrix.root.pem)
        self.dns = StageDns(self.addresses.of(1))
        self._numbers = itertools.count(1)
        self._opened: list[Opened] = []
        own = self.write(self.matrix.leaf(*dns(CAPULET)))
        self.own = load_pair(own.certificate, own.key)
        self.local = FarServer(CAPULET)
        self.local.tls = server_context(self.own)
        self.local.verdict = "invalid"
        self.gateway = Gateway(
            "identity-gateway",
            (CAPULET,),
            self.addresses.of(21),
            self.directory / "gateway",
            certificate=own,
            trust=self.bundle,
            server=("127.0.0.1", S2S_PORT),
            upstream_dns=f"{self.dns.address}:{DNS_PORT}",
            log=self.directory / "gateway.log",
            workers=1,
            log_level="info",
        )
        self.partner_authority = Authority("Partner CA")
        partner_bundle = self.directory / "partner-ca.pem"
        partner_bundle.write_bytes(self.partner_authority.pem)
        self.gateway.configure(f'remote."{PARTNER}"', trust=str(partner_bundle))
        for domain, auth in POLICIES.items():
            self.gateway.configure(f'remote."{domain}"', auth=auth, url=f"wss://{domain}/xmpp-s2s")
            self.dns.set(domain, "A", self.address(domain))

    def address(self, domain: str) -> str:
        """Where a domain of a policy lives; all others are set in `dns` by the test."""
        return self.addresses.of(100 + list(POLICIES).index(domain))

    async def start(self) -> None:
        self.dns.start()
        await self.local.serve_tcp()
        self.gateway.configure("local", server=f"127.0.0.1:{self.local.port}")
        await self.gateway.start()

    async def stop(self) -> None:
        for opened in self._opened:
            opened.end()
        await self.gateway.stop()
        await self.local.close()
        self.dns.stop()
        self.addresses.release()
        self._folder.cleanup()

    # Certificates.

    def write(self, leaf: Leaf) -> KeyPair:
        """The PEM files of a leaf and its chain."""
        path = self.directory / f"leaf-{next(self._numbers)}.pem"
        path.write_bytes(leaf.pem)
        return KeyPair(path, path)

    def issue(self, *names: str, **options: Any) -> KeyPair:
        """A good certificate for the names."""
        return self.write(self.matrix.leaf(*dns(*names), **options))

    # Remote servers that open streams to the gateway.

    async def dial(self, pair: KeyPair | None) -> Wire:
        """A WebSocket on which nothing was said yet."""
        return await dial(f"wss://{CAPULET}/xmpp-s2s", self.gateway.address, tls_context(pair))

    async def open(self, pair: KeyPair | None, sender: str = DOMAIN) -> "Opened":
        """Headers and features exchanged, or the error in their place."""
        opened = Opened(await self.dial(pair), sender)
        self._opened.append(opened)
        await opened.open()
        return opened

    async def external(
        self, pair: KeyPair, sender: str = DOMAIN, *, bidi: bool = False
    ) -> "Opened":
        """Authenticated by EXTERNAL."""
        opened = await self.open(pair, sender)
        if bidi:
            opened.send(BIDI)
        answer = await opened.ask(auth("="))
        assert answer.startswith("<success"), answer
        await opened.open()
        return opened

    # Remote servers that the gateway dials.

    async def peer(self, *, more_features: str = "") -> "PlayedPeer":
        """A remote domain that nobody has met yet, started."""
        number = next(self._numbers)
        domain = f"remote-{number}.example"
        peer = PlayedPeer(domain, self.addresses.of(130 + number % 100), self.issue(domain))
        peer.more_features = more_features
        self.dns.set(domain, "A", peer.address)
        await peer.start()
        return peer

    # The local server.

    async def open_local(self, target: str) -> TcpSession:
        """A stream of the local server's, established: the gateway has reached the remote."""
        config = StreamConfig(require_tls=True)
        parser = StreamParser(config.limits)
        now = asyncio.get_running_loop().time()
        stream = InitiatingStream(
            config, StreamFraming(), parser.feed, parser, now, sender=CAPULET, target=target
        )
        negotiation = Negotiation(NoOwner())
        session = TcpSession(stream, negotiation, is_server=False, server_name=target)
        session.tls_context = client_context(self.own)
        await session.connect(self.gateway.address, LOCAL_PORT)
        stream.open()
        session.pump()
        await negotiation.finish(session, WITHIN)
        return session

    async def arrived(self, id: str) -> None:
        """Wait until the local server has got a stanza; nothing evil may have come before."""
        await eventually(lambda: id in self.local.ids())
        assert not any(name and name.startswith("evil") for name in self.local.ids())

    async def nothing_evil_came(self) -> None:
        """What comes after an attack is the first that arrives."""
        opened = await self.external(self.issue(DOMAIN))
        opened.say("a-good-word")
        await self.arrived("a-good-word")
        self.local.got.clear()
        opened.end()

    # What is told.

    def log(self) -> str:
        return self.gateway.log.read_text()

    async def told(self, text: str) -> None:
        """Wait until the log says so."""
        await eventually(lambda: text in self.log())

    async def proved(self, remote: str, by: str) -> None:
        """Wait until a session of the remote's is shown that was authenticated so."""
        async with asyncio.timeout(WITHIN):
            while True:
                sessions = await self.gateway.wait_session(remote, "inbound")
                if by in [each["authenticated_by"] for each in sessions]:
                    return
                await asyncio.sleep(0.1)


class Opened:
    """A stream that a remote server opened by hand."""

    def __init__(self, wire: Wire, sender: str) -> None:
        self.wire = wire
        self.sender = sender
        self.id = ""
        self.features = ""

    async def open(self) -> None:
        self.send(f"<open xmlns='{FRAMING}' from='{self.sender}' to='{CAPULET}' version='1.0'/>")
        self.id = attribute(await self.receive(), "id")
        self.features = await self.receive()

    def send(self, text: str) -> None:
        self.wire.send(text)

    async def receive(self) -> str:
        return await self.wire.receive(WITHIN)

    async def ask(self, text: str) -> str:
        self.send(text)
        return await self.receive()

    def say(self, id: str, *, sender: str = "", to: str = CAPULET) -> None:
        """A message to a user of the local server."""
        self.send(message(id, f"paris@{sender or self.sender}", f"juliet@{to}"))

    async def ending(self) -> str:
        """All that comes up to the end, which comes by itself."""
        messages = []
        try:
            while True:
                messages.append(await self.receive())
        except WireClosed:
            return "".join(messages)

    def end(self) -> None:
        self.wire.end()


class PlayedPeer(Peer):
    """A remote server that the gateway dials: EXTERNAL if it shows a certificate, else dialback.

    `streams` has what was said on each connection, in order. `on_text` may answer instead of it.
    """

    def __init__(self, domain: str, address: str, pair: KeyPair) -> None:
        super().__init__(domain, address, pair)
        self.mechanisms = f"<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>"
        self.more_features = ""
        self.verdict = "valid"
        self.outcome = "valid"
        self.streams: list[list[str]] = []
        self.on_text: Callable[[Wire, str], bool] = lambda _wire, _text: False

    async def serve(self, wire: Wire) -> None:
        said: list[str] = []
        self.streams.append(said)
        is_authenticated = False
        while True:
            text = await self.receive(wire, within=600)
            said.append(text)
            if self.on_text(wire, text):
                continue
            if text.startswith("<open "):
                self._answer_open(wire, text, is_authenticated)
            elif text.startswith("<auth "):
                is_authenticated = True
                self.send(wire, f"<success xmlns='{SASL}'/>")
            elif text.startswith("<db:verify"):
                self._answer(wire, "verify", text, self.verdict)
            elif text.startswith("<db:result") and " type=" not in text:
                self._answer(wire, "result", text, self.outcome)
            elif text.startswith("<close "):
                self.send(wire, f"<close xmlns='{FRAMING}'/>")
                wire.close()
            else:
                self._collect(text)

    def said(self, start: str) -> list[list[str]]:
        """What begins so, by connection; connections on which nothing does are left out."""
        found = [[text for text in said if text.startswith(start)] for said in self.streams]
        return [texts for texts in found if texts]

    def _answer_open(self, wire: Wire, text: str, is_authenticated: bool) -> None:
        self.send(
            wire,
            f"<open xmlns='{FRAMING}' id='id-{len(self.streams)}' from='{self.domain}' "
            f"to='{attribute(text, 'from')}' version='1.0'/>",
        )
        offered = "" if is_authenticated else self.mechanisms + self.more_features
        self.send(
            wire,
            f"<stream:features xmlns='jabber:server' xmlns:stream='{STREAMS}'>"
            f"{offered}{DIALBACK_FEATURE}</stream:features>",
        )

    def _answer(self, wire: Wire, what: str, text: str, outcome: str) -> None:
        id = f" id='{attribute(text, 'id')}'" if what == "verify" else ""
        self.send(
            wire,
            f"<db:{what} xmlns='jabber:server' xmlns:db='jabber:server:dialback' "
            f"from='{attribute(text, 'to')}' to='{attribute(text, 'from')}'{id} type='{outcome}'/>",
        )


@asynccontextmanager
async def running() -> AsyncIterator[IdentityScene]:
    """The scene, from its start to its end."""
    scene = IdentityScene()
    try:
        await scene.start()
        yield scene
    finally:
        await scene.stop()


def auth(text: str, mechanism: str = "EXTERNAL") -> str:
    return f"<auth xmlns='{SASL}' mechanism='{mechanism}'>{text}</auth>"


def message(id: str, sender: str, to: str) -> str:
    return (
        f"<message xmlns='jabber:server' from='{sender}' to='{to}' id='{id}'>"
        "<body>a word</body></message>"
    )


def key(sender: str, text: str = "a key", *, to: str = CAPULET, type: str = "") -> str:
    """A dialback key for the receiving server, or with `type` an answer."""
    told = f" type='{type}'" if type else ""
    return (
        f"<db:result xmlns='jabber:server' xmlns:db='jabber:server:dialback' from='{sender}' "
        f"to='{to}'{told}>{text}</db:result>"
    )


def question(sender: str, id: str, text: str, *, to: str = CAPULET, type: str = "") -> str:
    """A question about a key, or with `type` an answer."""
    told = f" type='{type}'" if type else ""
    return (
        f"<db:verify xmlns='jabber:server' xmlns:db='jabber:server:dialback' from='{sender}' "
        f"to='{to}' id='{id}'{told}>{text}</db:verify>"
    )


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds, for some seconds at most."""
    await processes.eventually(condition, within=WITHIN, what="the next step")
