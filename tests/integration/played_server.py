"""The local server, played by hand on raw streams: what it reads is what expat makes of it.

Both stock servers read with expat. What arrives here is cut from the stream by the same parser, so
a gateway that forwards what expat reads otherwise fails the test that made it do so.
"""

import asyncio
import base64
import contextlib
import re
import ssl
from dataclasses import dataclass
from xml.parsers import expat

from loadtest.stage.addresses import LOCAL_PORT, S2S_PORT
from loadtest.stage.authority import KeyPair

SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
SM = "urn:xmpp:sm:3"
STREAMS = "http://etherx.jabber.org/streams"
HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' "
    f"xmlns:stream='{STREAMS}' from='{{0}}' to='{{1}}'{{2}} version='1.0'>"
)
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
FOOTER = "</stream:stream>"
EXTERNAL = f"<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>"
MANAGEMENT = f"<sm xmlns='{SM}'/>"
_CONDITION = re.compile(r"<stream:error[^>]*>\s*<([a-z-]+) xmlns='[^']*xmpp-streams'")


def condition(text: str) -> str:
    """The condition of the stream error in what was read, "" if there is none."""
    match = _CONDITION.search(text)
    return match[1] if match else ""


def auth(domain: str) -> str:
    identity = base64.b64encode(domain.encode()).decode()
    return f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>{identity}</auth>"


@dataclass(slots=True)
class Arrived:
    """A top-level element, as expat read it: namespace and name parted by a blank."""

    name: str
    attributes: dict[str, str]
    raw: bytes


class ExpatStream:
    """Cuts a stream that has begun with its header into top-level elements."""

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        self._data = bytearray()
        self._depth = 0
        self._begin = 0
        self._first: tuple[str, dict[str, str]] = ("", {})
        self._parser = expat.ParserCreate("utf-8", "\x01")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end

    def feed(self, data: bytes) -> None:
        """Raises `ExpatError`, as the server would end the stream."""
        self._data += data
        self._parser.Parse(data, False)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 2:
            self._begin = self._parser.CurrentByteIndex
            self._first = name.replace("\x01", " "), attributes

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._depth == 1:
            end = self._parser.CurrentByteIndex
            if self._data[end : end + 2] == b"</":  # else behind `<a/>`
                end = self._data.index(b">", end) + 1
            self.arrived.append(Arrived(*self._first, bytes(self._data[self._begin : end])))


class Raw:
    """One TCP connection: bytes out, text in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.text = ""

    def send(self, data: str | bytes) -> None:
        self.writer.write(data if isinstance(data, bytes) else data.encode("utf-8", "replace"))

    async def until(self, pattern: str, within: float = 10) -> str:
        """Read until the pattern is in what was not taken yet; take and return up to its end.

        Raises `TimeoutError`, and `ConnectionError` with what there was at an early end.
        """
        async with asyncio.timeout(within):
            while not (match := re.search(pattern, self.text)):
                try:
                    data = await self.reader.read(65536)
                except ssl.SSLError as exc:
                    raise ConnectionError(self.text) from exc
                if not data:
                    raise ConnectionError(self.text)
                self.text += data.decode("utf-8", "replace")
        taken, self.text = self.text[: match.end()], self.text[match.end() :]
        return taken

    async def ending(self, within: float = 10) -> str:
        """All that is still read, up to the end of the connection, which comes by itself."""
        with contextlib.suppress(ConnectionError):
            await self.until(r"\Zx", within)
        return self.text

    def close(self) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):
            self.writer.close()


class PlayedServer:
    """The server of `domain`. `stanzas` has what came from remote domains, in order.

    `rude` says what it sends, by the remote domain whose stream it is, behind its features when the
    stream is authenticated.
    """

    def __init__(self, domain: str, address: str, pair: KeyPair) -> None:
        self.domain = domain
        self.address = address
        self.stanzas: list[Arrived] = []
        self.problems: list[str] = []
        """What expat objected to."""
        self.rude: dict[str, str] = {}
        self.endings: dict[str, str] = {}
        """By remote domain: what a stream of its had said when it ended."""
        self._pair = pair
        self._came = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.address, S2S_PORT)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_for(self, id: str, within: float = 10) -> Arrived:
        """The stanza with this id. Raises `AssertionError`."""
        try:
            async with asyncio.timeout(within), self._came:
                while True:
                    for arrived in self.stanzas:
                        if arrived.attributes.get("id") == id:
                            return arrived
                    await self._came.wait()
        except TimeoutError:
            raise AssertionError(f"{id} did not arrive; {self.problems}") from None

    async def wait_for_end(self, remote: str, within: float = 10) -> str:
        """What the gateway said on the stream of this remote domain that has ended."""
        try:
            async with asyncio.timeout(within), self._came:
                while remote not in self.endings:
                    await self._came.wait()
        except TimeoutError:
            raise AssertionError(f"the stream of {remote} has not ended") from None
        return self.endings[remote]

    async def connect(self, gateway_address: str) -> Raw:
        """A connection to the gateway's local port on which nothing was said yet."""
        return Raw(*await asyncio.open_connection(gateway_address, LOCAL_PORT))

    def header_to(self, target: str) -> str:
        return HEADER.format(self.domain, target, "")

    async def open_clear(self, gateway_address: str, target: str) -> Raw:
        """The same with the first headers exchanged: STARTTLS is asked for."""
        raw = await self.connect(gateway_address)
        raw.send(self.header_to(target))
        await raw.until("</stream:features>")
        return raw

    async def open_secure(self, gateway_address: str, target: str) -> Raw:
        """The same on TLS: authentication is asked for."""
        raw = await self.open_clear(gateway_address, target)
        raw.send(STARTTLS)
        await raw.until("<proceed[^>]*>")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(self._pair.certificate, self._pair.key)
        await raw.writer.start_tls(context)
        raw.send(self.header_to(target))
        await raw.until("</stream:features>")
        return raw

    async def open(self, gateway_address: str, target: str) -> Raw:
        """The same authenticated, with acknowledgements."""
        raw = await self.open_secure(gateway_address, target)
        raw.send(auth(self.domain))
        await raw.until("<success[^>]*>")
        raw.send(self.header_to(target))
        await raw.until("</stream:features>")
        raw.send(f"<enable xmlns='{SM}'/>")
        await raw.until("<enabled[^>]*>")
        return raw

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        raw, remote = Raw(reader, writer), ""
        try:
            remote, header = await self._authenticate(raw)
            await self._take(raw, remote, header)
        except (ConnectionError, TimeoutError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            raw.close()
            self._tasks.discard(task)
            async with self._came:
                self.endings[remote] = raw.text
                self._came.notify_all()

    async def _authenticate(self, raw: Raw) -> tuple[str, str]:
        """The remote domain and the header with which its stream begins."""
        header = await raw.until("<stream:stream [^>]*>")
        match = re.search(" from='([^']*)'", header)
        remote = match[1] if match else ""
        answer = HEADER.format(self.domain, remote, " id='x1'")
        features = "<stream:features>{}</stream:features>"
        required = STARTTLS.replace("/>", "><required/></starttls>")
        raw.send(answer + features.format(required))
        await raw.until("<starttls[^>]*>")
        raw.send("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._pair.certificate, self._pair.key)
        await raw.writer.start_tls(context)
        await raw.until("<stream:stream [^>]*>")
        raw.send(answer + features.format(EXTERNAL))
        await raw.until("</auth>")
        raw.send(f"<success xmlns='{SASL}'/>")
        header = await raw.until("<stream:stream [^>]*>")
        raw.send(answer + features.format(MANAGEMENT) + self.rude.pop(remote, ""))
        return remote, header

    async def _take(self, raw: Raw, remote: str, header: str) -> None:
        parser, handled, taken = ExpatStream(), 0, 0
        data = (header + raw.text).encode()
        while True:
            try:
                parser.feed(data)
            except expat.ExpatError as exc:
                self.problems.append(f"{remote}: {exc}")
                return
            for arrived in parser.arrived[taken:]:
                taken += 1
                handled += self._on_element(raw, arrived, handled)
            async with self._came:
                self._came.notify_all()
            data = await raw.reader.read(65536)
            raw.text += data.decode("utf-8", "replace")
            if not data or FOOTER in raw.text[-200:]:
                raw.send(FOOTER)
                return

    def _on_element(self, raw: Raw, arrived: Arrived, handled: int) -> int:
        """1 if the element counts."""
        if arrived.name == f"{SM} enable":
            raw.send(f"<enabled xmlns='{SM}'/>")
        elif arrived.name == f"{SM} r":
            raw.send(f"<a xmlns='{SM}' h='{handled}'/>")
        elif arrived.name.split()[-1] in ("message", "presence", "iq"):
            self.stanzas.append(arrived)
            return 1
        return 0
