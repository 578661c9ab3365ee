"""One gateway between played servers only, for the numbered tests of specifications and attacks.

`verona.example` is the attacker, `mantua.example` stands by: its session must not notice anything.
"""

import asyncio
import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from websockets.frames import Opcode

from loadtest.stage.addresses import DNS_PORT, S2S_PORT, Addresses
from loadtest.stage.authority import TestAuthority
from loadtest.stage.dns import StageDns
from loadtest.stage.gateway import Gateway
from loadtest.stage.peers import FRAMING, SASL, XmppProxyPeer
from loadtest.stage.wire import Wire, WireClosed, dial, tls_context
from tests.integration.played_server import PlayedServer, Raw, condition

CAPULET, VERONA, MANTUA = "capulet.example", "verona.example", "mantua.example"
OPEN = f"<open xmlns='{FRAMING}' from='{VERONA}' to='{CAPULET}' version='1.0'/>"
AUTH = f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>=</auth>"
WITHIN = 5.0
"""Seconds in which an attack has ended its session."""

# Where an attack is tried: a WebSocket on which nothing was said, one that was opened, one that is
# authenticated; the same on the local port (opened in clear, and on TLS).
FIRST, STRANGER, GUEST = "first message", "before authentication", "after authentication"
LOCAL_FIRST, LOCAL_CLEAR = "local, first bytes", "local, in clear"
LOCAL_STRANGER, LOCAL_GUEST = "local, before authentication", "local, after authentication"
PUBLIC = (FIRST, STRANGER, GUEST)
LOCAL = (LOCAL_FIRST, LOCAL_CLEAR, LOCAL_STRANGER, LOCAL_GUEST)


@dataclass(slots=True)
class Ending:
    """How the gateway ended a session: the condition, whether it closed the stream, the code."""

    condition: str
    is_closed: bool
    code: int
    messages: list[str] = field(default_factory=list)


class Scene:
    """Start with `start()`, end with `stop()`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fedgate-spec-", dir="/tmp")
        directory = Path(self._folder.name)
        self.addresses = Addresses()
        self.authority = TestAuthority(directory / "ca")
        self.dns = StageDns(self.addresses.of(1))
        own = self.authority.issue(CAPULET, f"gw.{CAPULET}")
        self.server = PlayedServer(CAPULET, self.addresses.of(11), own)
        self.gateway = Gateway(
            "spec-gateway",
            (CAPULET,),
            self.addresses.of(21),
            directory / "gateway",
            certificate=own,
            trust=self.authority.bundle,
            server=(self.server.address, S2S_PORT),
            upstream_dns=f"{self.dns.address}:{DNS_PORT}",
            log=directory / "gateway.log",
            workers=1,
            log_level="info",
        )
        self.gateway.configure("limits", stanza_timeout=1.0, authentication_timeout=2.0)
        self.verona = self._peer(VERONA, 101)
        self.mantua = self._peer(MANTUA, 102)
        self._numbers = itertools.count(1)
        self._guest: Wire | None = None
        self._bystander: Wire | None = None

    async def start(self) -> None:
        self.dns.start()
        await self.server.start()
        await asyncio.gather(self.verona.start(), self.mantua.start(), self.gateway.start())
        self._bystander = await self.connect(self.mantua)

    async def stop(self) -> None:
        for peer in (self.verona, self.mantua):
            await peer.stop()
        await self.gateway.stop()
        await self.server.stop()
        self.dns.stop()
        self.addresses.release()
        self._folder.cleanup()

    async def connect(self, peer: XmppProxyPeer) -> Wire:
        """An authenticated session of a peer to the gateway."""
        return await peer.connect(f"wss://{CAPULET}/xmpp-s2s", self.gateway.address, CAPULET)

    async def dial(self) -> Wire:
        """A WebSocket of verona's to the gateway on which nothing was said."""
        context = tls_context(self._certificates[VERONA])
        return await dial(f"wss://{CAPULET}/xmpp-s2s", self.gateway.address, context)

    async def opened(self) -> Wire:
        """The same, with headers and features exchanged."""
        wire = await self.dial()
        wire.send(OPEN)
        await wire.receive()
        await wire.receive()
        return wire

    async def connect_raw(self, domain: str) -> Wire:
        """An authenticated session of a domain on which acknowledgements are not enabled."""
        wire = await dial(
            f"wss://{CAPULET}/xmpp-s2s",
            self.gateway.address,
            tls_context(self._certificates[domain]),
        )
        header = OPEN.replace(VERONA, domain)
        for text in (header, AUTH, header):
            wire.send(text)
            await wire.receive()
            if text == header:
                await wire.receive()
        return wire

    async def guest(self) -> Wire:
        """Verona's authenticated session; a new one if the last has ended."""
        if self._guest is None or self._guest.protocol.state.name != "OPEN":
            if self._guest is not None:
                self._guest.end()
            self._guest = await self.connect(self.verona)
        return self._guest

    async def open_local(self, where: str) -> Raw:
        """A stream of the local server's to mantua.example, brought to that point."""
        server, address = self.server, self.gateway.address
        if where == LOCAL_FIRST:
            return await server.connect(address)
        if where == LOCAL_CLEAR:
            return await server.open_clear(address, MANTUA)
        if where == LOCAL_STRANGER:
            return await server.open_secure(address, MANTUA)
        return await server.open(address, MANTUA)

    async def attack(self, where: str, *data: str | bytes) -> Ending:
        """Send data, each a message on a WebSocket, and see how the gateway ends the session."""
        if where in LOCAL:
            return await self._attack_locally(where, *data)
        wire = await {FIRST: self.dial, STRANGER: self.opened, GUEST: self.guest}[where]()
        for item in data:
            payload = item if isinstance(item, bytes) else item.encode()
            wire.send_frame(Opcode.TEXT, payload, mask=True)
        end = await ending(wire)
        wire.end()
        return end

    async def refuses(self, condition: str, where: str, *data: str | bytes) -> None:
        """An attack ends with this stream error ("" for none) and a closing tag, and that is all.

        Nobody else notices, and nothing of it was forwarded.
        """
        end = await self.attack(where, *data)
        assert (end.condition, end.is_closed) == (condition, True), end
        await self.nothing_passed()

    async def _attack_locally(self, where: str, *data: str | bytes) -> Ending:
        raw = await self.open_local(where)
        for item in data:
            raw.send(item)
        text = await raw.ending(WITHIN)
        raw.close()
        return Ending(condition(text), text.endswith("</stream:stream>"), 0, [text])

    async def nothing_passed(self, word: str = "evil") -> None:
        """The bystander's session and the attacker's pair go on, and nothing of the attack came."""
        assert self._bystander is not None
        pending = [
            self.say(self._bystander, MANTUA),
            self.say(await self.guest(), VERONA),
        ]
        for id in pending:
            await self.server.wait_for(id, WITHIN)
        arrived_stanzas = self.server.stanzas.copy()
        problems = self.server.problems.copy()
        self.server.stanzas.clear()
        self.server.problems.clear()
        assert not problems
        for arrived in arrived_stanzas:
            assert word.encode() not in arrived.raw, arrived.raw[:500]
        for peer in (self.verona, self.mantua):
            while not peer.stanzas.empty():
                stanza = peer.stanzas.get_nowait()
                assert "type='error'" in stanza or word not in stanza, stanza[:500]

    def say(self, wire: Wire, sender: str, attributes: str = "") -> str:
        """Send a harmless message to the local server's juliet; its id."""
        id = f"word-{next(self._numbers)}"
        wire.send(message("<body>a word</body>", sender=f"paris@{sender}", id=id))
        return id

    async def rss(self) -> int:
        """Bytes of the worker's memory."""
        (worker,) = await self.gateway.api("workers")
        with open(f"/proc/{worker['pid']}/statm") as statm:  # noqa: ASYNC230
            return int(statm.read().split()[1]) * 4096

    def _peer(self, domain: str, actor: int) -> XmppProxyPeer:
        pair = self.authority.issue(domain)
        self._certificates = {**getattr(self, "_certificates", {}), domain: pair}
        peer = XmppProxyPeer(domain, self.addresses.of(actor), pair)
        self.dns.set(domain, "A", peer.address)
        return peer


def message(
    inner: str = "<body>evil</body>",
    *,
    sender: str = f"paris@{VERONA}",
    to: str = f"juliet@{CAPULET}",
    id: str = "evil",
    ns: str = "jabber:server",
    attributes: str = "",
) -> str:
    """A stanza as verona's users send it."""
    return (
        f"<message xmlns='{ns}' from='{sender}' to='{to}' id='{id}'{attributes}>{inner}</message>"
    )


def local_message(inner: str = "<body>evil</body>", **options: str) -> str:
    """A stanza as users of the local server send it to mantua.example."""
    named = {"sender": f"juliet@{CAPULET}", "to": f"friar@{MANTUA}", **options}
    return message(inner, **named)


async def expect(wire: Wire, text: str) -> str:
    """The next message with this text; acknowledgements may come before it unasked."""
    while text not in (received := await wire.receive(WITHIN)):
        pass
    return received


async def ending(wire: Wire) -> Ending:
    """Read up to the end, which has to come by itself."""
    messages: list[str] = []
    try:
        while True:
            messages.append(await wire.receive(WITHIN))
    except WireClosed as closed:
        text = "".join(messages)
        last = messages[-1] if messages else ""
        return Ending(condition(text), last.startswith("<close "), closed.code, messages)
