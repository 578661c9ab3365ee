"""Two deployed peers of XEP-0468 in both roles, with the habits seen on their wires.

`XmppProxyPeer` is xmpp-proxy with a Prosody behind it, `PeerTubePeer` the livechat module of
PeerTube. Both are written from descriptions of what they send, on a plain WebSocket.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import re
import secrets

from websockets.datastructures import Headers
from websockets.frames import Opcode
from websockets.http11 import Request, Response

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.authority import KeyPair
from loadtest.stage.website import HOST_META, host_meta
from loadtest.stage.wire import Wire, WireClosed, dial, listen, tls_context

FRAMING = "urn:ietf:params:xml:ns:xmpp-framing-server"
FRAMING_CLIENT = "urn:ietf:params:xml:ns:xmpp-framing"
STREAMS = "http://etherx.jabber.org/streams"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
MECHANISMS = f"<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>"
MANAGEMENT = "<sm xmlns='urn:xmpp:sm:2'><optional/></sm><sm xmlns='urn:xmpp:sm:3'><optional/></sm>"
DIALBACK_FEATURE = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"
_STANZA = re.compile(r"<(message|presence|iq)[\s/>]")


def attribute(xml: str, name: str) -> str:
    """An attribute of the first tag, found as these peers find it: by text."""
    tag = xml[: xml.find(">") + 1]
    match = re.search(rf" {name}=(['\"])(.*?)\1", tag)
    return match[2] if match else ""


class Peer:
    """A remote domain played by hand at one address; `start()` before, `stop()` after.

    `stanzas` collects what arrived, as text; `log` has every message of every connection.
    """

    path = "/xmpp-s2s"
    alpn: tuple[bytes, ...] = ()

    def __init__(
        self, domain: str, address: str, certificate: KeyPair | None, *, host: str = ""
    ) -> None:
        self.domain = domain
        self.host = host or domain
        self.address = address
        self.stanzas: asyncio.Queue[str] = asyncio.Queue()
        self.log: list[str] = []
        self.wires: list[Wire] = []
        self.secret = secrets.token_hex(16)
        self._certificate = certificate
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"wss://{self.host}{self.path}"

    async def start(self) -> None:
        """Serve host-meta.json and the wss endpoint."""
        context = tls_context(self._certificate, alpn=self.alpn)
        self._server = await listen(
            self.address, WEBSOCKET_PORT, context, self._accepted, self.respond
        )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for wire in self.wires:
            wire.end()
        await asyncio.sleep(0)

    def respond(self, request: Request) -> Response | None:
        """Answer plain HTTP requests; None lets the upgrade go on."""
        path = request.path.partition("?")[0]
        if path == HOST_META:
            body = json.dumps(host_meta(self.url, self.address, self.host)).encode()
            headers = Headers(
                {"Content-Type": "application/json", "Content-Length": str(len(body))}
            )
            return Response(200, "OK", headers, body)
        if "Upgrade" not in request.headers:
            return Response(404, "Not Found", Headers({"Content-Length": "0"}), b"")
        return None

    async def next_stanza(self, containing: str, within: float = 15) -> str:
        """The next stanza with this text. Raises `AssertionError` with the log."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while True:
                    stanza = await self.stanzas.get()
                    if containing in stanza:
                        return stanza
        log = "\n".join(self.log[-20:])
        raise AssertionError(f"{self.domain} did not get {containing!r}:\n{log}")

    async def receive(self, wire: Wire, within: float = 15) -> str:
        text = await wire.receive(within)
        self.log.append(f"< {text[:500]}")
        return text

    def send(self, wire: Wire, text: str) -> None:
        self.log.append(f"> {text[:500]}")
        wire.send(text)

    def dialback_key(self, receiving: str, stream_id: str) -> str:
        """The key of XEP-0185 for a stream from us to the receiving domain."""
        secret = hashlib.sha256(self.secret.encode()).hexdigest().encode()
        text = f"{receiving} {self.domain} {stream_id}".encode()
        return hmac.new(secret, text, hashlib.sha256).hexdigest()

    async def _accepted(self, wire: Wire) -> None:
        self.wires.append(wire)
        await self.serve(wire)

    async def serve(self, wire: Wire) -> None:
        """Play the receiving server on one connection, until it ends."""
        raise NotImplementedError

    async def connect(self, url: str, address: str, target: str) -> Wire:
        """Play the initiating server: return a connection authenticated for (us, target)."""
        raise NotImplementedError

    def _collect(self, text: str) -> bool:
        if not _STANZA.match(text):
            return False
        self.stanzas.put_nowait(text)
        return True


class XmppProxyPeer(Peer):
    """xmpp-proxy: string matching instead of a parser; EXTERNAL by the Prosody behind it."""

    alpn = (b"xmpp-client", b"xmpp-server")

    async def serve(self, wire: Wire) -> None:
        opening = await self.receive(wire)
        sender = attribute(opening, "from")
        # Its checks end the connection without a word: no error, no <close/>, no Close frame.
        if not opening.startswith("<open ") or not sender or sender not in wire.peer_names:
            self.log.append(f"! dropped {sender or 'nobody'} with {wire.peer_names}")
            wire.end()
            return
        self._answer_open(wire, sender, MECHANISMS)
        counted = 0
        while True:
            text = await self.receive(wire, within=600)
            if text.startswith("<close "):
                # The converted </stream:stream>, in the c2s namespace, and then just the end.
                self.send(wire, f'<close xmlns="{FRAMING_CLIENT}" />')
                wire.end()
                return
            if text.startswith("<open "):
                self._answer_open(wire, sender, MANAGEMENT)
            elif text.startswith("<auth "):
                self._answer_auth(wire, sender, text)
            elif text.startswith("<enable "):
                counted = 0
                self.send(wire, "<enabled xmlns='urn:xmpp:sm:3'/>")
            elif text.startswith("<r "):
                self.send(wire, f"<a h='{counted}' xmlns='urn:xmpp:sm:3'/>")
            elif self._collect(text):
                counted += 1

    async def connect(self, url: str, address: str, target: str) -> Wire:
        # No ALPN, one Origin, no Ping ever.
        wire = await dial(
            url,
            address,
            tls_context(self._certificate),
            headers={"Origin": f"https://{url.split('/')[2]}"},
        )
        self.wires.append(wire)
        if wire.handshake is None or wire.handshake.headers.get("Sec-WebSocket-Protocol") != "xmpp":
            wire.end()
            raise WireClosed(1006, "no subprotocol xmpp in the answer")
        await self._open(wire, target)
        self.send(wire, f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>{self._authzid()}</auth>")
        answer = await self.receive(wire)
        if not answer.startswith("<success"):
            raise WireClosed(1006, answer)
        features = await self._open(wire, target)
        if "urn:xmpp:sm:3" in features:
            self.send(wire, "<enable xmlns='urn:xmpp:sm:3'/>")
            assert (await self.receive(wire)).startswith("<enabled")
        return wire

    async def acknowledged(self, wire: Wire) -> int:
        """Ask how many stanzas were taken (XEP-0198)."""
        self.send(wire, "<r xmlns='urn:xmpp:sm:3'/>")
        while not (text := await self.receive(wire)).startswith("<a "):
            self._collect(text)
        return int(attribute(text, "h"))

    def close(self, wire: Wire) -> None:
        """The Prosody behind closes its stream."""
        self.send(wire, f'<close xmlns="{FRAMING_CLIENT}" />')
        wire.end()

    async def _open(self, wire: Wire, target: str) -> str:
        # The dialback namespace is damaged by the replacement of "jabber:server".
        self.send(
            wire,
            f'<open xmlns:db="{FRAMING}:dialback" to="{target}" xmlns="{FRAMING}" version="1.0" '
            f"xmlns:stream='{STREAMS}' from=\"{self.domain}\" xml:lang='en'/>",
        )
        opening = await self.receive(wire)
        if not opening.startswith("<open "):
            raise WireClosed(1006, opening)
        return await self.receive(wire)

    def _answer_open(self, wire: Wire, sender: str, features: str) -> None:
        self.send(
            wire,
            f"<open xmlns:stream='{STREAMS}' id=\"{secrets.token_hex(8)}\" to='{sender}' "
            f"xmlns='{FRAMING}' version='1.0' xml:lang='en' from='{self.domain}' "
            f"xmlns:db='{FRAMING}:dialback'/>",
        )
        self.send(
            wire,
            f"<stream:features xmlns='jabber:server' xmlns:stream='{STREAMS}'>"
            f"{features}{DIALBACK_FEATURE}</stream:features>",
        )

    def _answer_auth(self, wire: Wire, sender: str, text: str) -> None:
        identity = text.partition(">")[2].partition("<")[0]
        if identity == "=" or base64.b64decode(identity).decode() == sender:
            self.send(wire, f"<success xmlns='{SASL}'/>")
        else:
            self.send(wire, f"<failure xmlns='{SASL}'><not-authorized/></failure>")

    def _authzid(self) -> str:
        return base64.b64encode(self.domain.encode()).decode()


class PeerTubePeer(Peer):
    """PeerTube livechat: dialback over WebSocket, no client certificate, pings."""

    path = "/plugins/livechat/router/xmpp-websocket-s2s"
    # As deployed; masked frames are what a proxy that re-frames would make of them.
    masks = True

    def __init__(self, domain: str, address: str, certificate: KeyPair) -> None:
        super().__init__(domain, address, certificate)
        self.verified: list[tuple[str, str]] = []
        # Where other instances are, by domain: wss URL and address.
        self.known: dict[str, tuple[str, str]] = {}
        self._stream_ids = itertools.count(1)

    async def serve(self, wire: Wire) -> None:
        opening = await self.receive(wire)
        if opening[:1] != "<":
            wire.close(1007)
            return
        sender, stream_id = attribute(opening, "from"), f"pt-{next(self._stream_ids)}"
        self.send(
            wire,
            f"<open xmlns='{FRAMING}' id='{stream_id}' from='{self.domain}' to='{sender}' "
            "version='1.0' xml:lang='en'/>",
        )
        self.send(
            wire,
            f"<stream:features xmlns:stream='{STREAMS}' xmlns='jabber:server'>"
            f"{DIALBACK_FEATURE}</stream:features>",
        )
        while True:
            text = await self.receive(wire, within=600)
            if text.startswith("<close") and FRAMING in text:
                self.send(wire, f"<close xmlns='{FRAMING}'/>")
                wire.close()
                return
            if text.startswith("<db:verify"):
                self._answer_verify(wire, text)
            elif text.startswith("<db:result"):
                await self._verify(wire, text, stream_id)
            else:
                self._collect(text)

    async def connect(self, url: str, address: str, target: str) -> Wire:
        wire, stream_id = await self._open(url, address, target)
        key = self.dialback_key(target, stream_id)
        self._write(
            wire,
            f"<db:result xmlns='jabber:server' from='{self.domain}' to='{target}'>"
            f"{key}</db:result>",
        )
        answer = await self.receive(wire)
        if attribute(answer, "type") != "valid":
            raise WireClosed(1006, answer)
        return wire

    def ping(self, wire: Wire) -> None:
        """What it does every 55 seconds, unmasked like its text."""
        wire.send_frame(Opcode.PING, b"", mask=self.masks)

    def say(self, wire: Wire, stanza: str) -> None:
        self._write(wire, stanza)

    async def _open(self, url: str, address: str, target: str) -> tuple[Wire, str]:
        # Dialback is its only proof: it shows no certificate when it dials.
        wire = await dial(
            url,
            address,
            tls_context(None),
            headers={"peertube-livechat-ws-s2s-instance-url": f"https://{self.domain}"},
        )
        self.wires.append(wire)
        self._write(
            wire,
            f'<open id="" xmlns="{FRAMING}" from="{self.domain}" to="{target}" version="1.0"/>',
        )
        opening = await self.receive(wire)
        if not opening.startswith("<open"):
            raise WireClosed(1006, opening)
        await self.receive(wire)
        return wire, attribute(opening, "id")

    def _write(self, wire: Wire, text: str) -> None:
        self.log.append(f"> {text[:500]}")
        wire.send_frame(Opcode.TEXT, text.encode(), mask=self.masks)

    def _answer_verify(self, wire: Wire, text: str) -> None:
        receiving, stream_id = attribute(text, "from"), attribute(text, "id")
        key = text.partition(">")[2].partition("<")[0]
        valid = key == self.dialback_key(receiving, stream_id)
        self.verified.append((receiving, "valid" if valid else "invalid"))
        self.send(
            wire,
            f"<db:verify xmlns='jabber:server' from='{self.domain}' to='{receiving}' "
            f"id='{stream_id}' type='{self.verified[-1][1]}'/>",
        )

    async def _verify(self, wire: Wire, text: str, stream_id: str) -> None:
        """Ask the domain that claims the key, on a WebSocket of our own."""
        sender, key = attribute(text, "from"), text.partition(">")[2].partition("<")[0]
        url, address = self.known[sender]
        back, _ = await self._open(url, address, sender)
        self._write(
            back,
            f"<db:verify xmlns='jabber:server' from='{self.domain}' to='{sender}' "
            f"id='{stream_id}'>{key}</db:verify>",
        )
        answer = attribute(await self.receive(back), "type")
        self._write(back, f"<close xmlns='{FRAMING}'/>")
        back.close()
        self.send(
            wire,
            f"<db:result xmlns='jabber:server' from='{self.domain}' to='{sender}' "
            f"type='{answer}'/>",
        )

    def introduce(self, domain: str, url: str, address: str) -> None:
        """What its own discovery (PeerTube's server-infos, not host-meta) would tell."""
        self.known[domain] = (url, address)
