"""A WebSocket over TLS with nothing of fedgate in it: every frame is the test's to form.

TLS is pyOpenSSL over memory buffers, because Python's ssl refuses a client's serverAuth-only
certificate before anyone can look at it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

from cryptography import x509
from OpenSSL import SSL
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from loadtest.stage.authority import KeyPair

_CHUNK = 65536

HttpResponder = Callable[[Request], Response | None]


class WireClosed(Exception):
    """The other side ended the connection; `code` is that of its Close frame, 1006 without one."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {reason}".rstrip())
        self.code = code


def tls_context(pair: KeyPair | None, *, alpn: tuple[bytes, ...] = ()) -> SSL.Context:
    """A context for either role that asks for the peer's certificate and accepts any.

    `alpn` makes a server fail the handshake of clients that offer only other protocols.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")  # tests show weak keys, too
    if pair is not None:
        context.use_certificate_chain_file(str(pair.certificate))
        context.use_privatekey_file(str(pair.key))
    if alpn:
        context.set_alpn_select_callback(lambda _, offered: _select_alpn(offered, alpn))
    return context


def _select_alpn(offered: list[bytes], known: tuple[bytes, ...]) -> bytes:
    for protocol in known:
        if protocol in offered:
            return protocol
    raise ValueError("no_application_protocol")


class Wire(asyncio.Protocol):
    """One connection. After `opened`, `send()` and `receive()` move text messages."""

    def __init__(self, context: SSL.Context, protocol: Any, *, server_name: str = "") -> None:
        self.protocol = protocol
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pongs = 0
        self.handshake: Request | Response | None = None
        self.on_opened: Callable[[Wire], Awaitable[None]] | None = None
        self.http_responder: HttpResponder | None = None
        self.on_frame: Callable[[Frame], None] | None = None
        """Sees every frame that comes, as it came."""
        self._messages: asyncio.Queue[str | WireClosed] = asyncio.Queue()
        self._fragments: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._tls = SSL.Connection(context, None)
        self._secure = False
        self._task: asyncio.Task[None] | None = None
        if isinstance(protocol, ServerProtocol):
            self._tls.set_accept_state()
        else:
            self._tls.set_connect_state()
            self._tls.set_tlsext_host_name(server_name.encode())

    @property
    def peer_names(self) -> list[str]:
        """The dNSNames of the peer's certificate; empty when it showed none."""
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            return []
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return names.value.get_values_for_type(x509.DNSName)

    def send(self, text: str) -> None:
        """One text message in one frame, masked as the role requires. Raises `WireClosed`."""
        if self.protocol.state is not State.OPEN:
            raise self._closed()
        self.protocol.send_text(text.encode())
        self._flush()

    def send_frame(self, opcode: Opcode, payload: bytes, *, mask: bool, fin: bool = True) -> None:
        """A frame as the test wants it, legal or not."""
        self._write(Frame(opcode, payload, fin).serialize(mask=mask))

    def send_bytes(self, data: bytes) -> None:
        """Inside TLS, whatever they are."""
        self._write(data)

    async def receive(self, within: float = 15) -> str:
        """The next text message. Raises `WireClosed`, `TimeoutError`."""
        message = await asyncio.wait_for(self._messages.get(), within)
        if isinstance(message, WireClosed):
            self._messages.put_nowait(message)
            raise message
        return message

    def close(self, code: int = 1000) -> None:
        """Begin the closing handshake of WebSocket."""
        if self.protocol.state is State.OPEN:
            self.protocol.send_close(code)
            self._flush()

    def end(self) -> None:
        """End TLS and TCP, without a Close frame when there was none."""
        if self._transport is not None and not self._transport.is_closing():
            with contextlib.suppress(SSL.Error):
                self._tls.shutdown()
            self._drain_tls()
            self._transport.close()

    def stop_reading(self) -> None:
        """Take nothing more from the socket, and keep it open."""
        if self._transport is not None:
            self._transport.pause_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's: nothing to check at run time.
        self._transport = cast(asyncio.Transport, transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        self._tls.bio_write(data)
        if not self._secure and not self._shake_hands():
            return
        try:
            while True:
                self.protocol.receive_data(self._tls.recv(_CHUNK))
        except SSL.WantReadError:
            pass
        except (SSL.ZeroReturnError, SSL.Error):
            self._receive_eof()
        self._handle_events()

    def connection_lost(self, exc: Exception | None) -> None:
        self._receive_eof()
        self._handle_events()
        closed = self._closed()
        if not self.opened.done():
            self.opened.set_exception(closed)
            # A server's connection may never have been waited for.
            self.opened.exception()
        self._messages.put_nowait(closed)

    def _closed(self) -> WireClosed:
        # Before the end of TCP there may be a Close frame already, or nothing at all.
        received = self.protocol.close_rcvd
        return WireClosed(received.code, received.reason) if received else WireClosed(1006, "")

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._drain_tls()
            return False
        except SSL.Error:
            self._drain_tls()
            assert self._transport is not None
            self._transport.close()
            return False
        self._secure = True
        self._drain_tls()
        if isinstance(self.protocol, ClientProtocol):
            self._flush()
        return True

    def _receive_eof(self) -> None:
        with contextlib.suppress(AssertionError, EOFError):
            self.protocol.receive_eof()

    def _handle_events(self) -> None:
        for event in self.protocol.events_received():
            if isinstance(event, Request):
                self._on_request(event)
            elif isinstance(event, Response):
                self._on_opened(event)
            else:
                self._on_frame(event)
        self._flush()
        if self._is_over() and self._transport is not None:
            self._transport.close()

    def _is_over(self) -> bool:
        # What the other side had sent before it read our Close comes first, and is no answer.
        protocol = self.protocol
        ends: bool = protocol.close_expected()
        answered = protocol.close_rcvd is not None or protocol.parser_exc is not None
        return ends and (answered or protocol.state is State.CONNECTING)

    def _on_request(self, request: Request) -> None:
        response = self.http_responder(request) if self.http_responder else None
        self.protocol.send_response(response or self.protocol.accept(request))
        if self.protocol.state is State.OPEN:
            self._on_opened(request)

    def _on_opened(self, handshake: Request | Response) -> None:
        self.handshake = handshake
        if self.protocol.state is State.OPEN and not self.opened.done():
            self.opened.set_result(None)
            if self.on_opened is not None:
                self._task = asyncio.ensure_future(self._run(self.on_opened))

    async def _run(self, serve: Callable[["Wire"], Awaitable[None]]) -> None:
        with contextlib.suppress(WireClosed, TimeoutError):
            await serve(self)

    def _on_frame(self, frame: Frame) -> None:
        if self.on_frame is not None:
            self.on_frame(frame)
        if frame.opcode is Opcode.PONG:
            self.pongs += 1
        elif frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                self._messages.put_nowait(b"".join(self._fragments).decode())
                self._fragments.clear()

    def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self._write(data)

    def _write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing() or not self._secure:
            return
        self._tls.sendall(data)
        self._drain_tls()

    def _drain_tls(self) -> None:
        assert self._transport is not None
        with contextlib.suppress(SSL.WantReadError, SSL.Error):
            while True:
                self._transport.write(self._tls.bio_read(_CHUNK))


async def dial(
    url: str,
    address: str,
    context: SSL.Context,
    *,
    server_name: str = "",
    headers: dict[str, str] | None = None,
) -> Wire:
    """Open a WebSocket with subprotocol xmpp. Raises `WireClosed`, `OSError`, `TimeoutError`."""
    uri = parse_uri(url)
    protocol = ClientProtocol(uri, subprotocols=["xmpp"])  # type: ignore[list-item]
    request = protocol.connect()
    for name, value in (headers or {}).items():
        request.headers[name] = value
    protocol.send_request(request)
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(
        lambda: Wire(context, protocol, server_name=server_name or uri.host), address, uri.port
    )
    await asyncio.wait_for(wire.opened, 10)
    return wire


async def listen(
    address: str,
    port: int,
    context: SSL.Context,
    serve: Callable[[Wire], Awaitable[None]],
    http_responder: HttpResponder,
) -> asyncio.Server:
    """Accept WebSockets; `serve` runs for each, `http_responder` answers other requests."""

    def accept() -> Wire:
        wire = Wire(context, ServerProtocol(subprotocols=["xmpp"]))  # type: ignore[list-item]
        wire.on_opened, wire.http_responder = serve, http_responder
        return wire

    return await asyncio.get_running_loop().create_server(accept, address, port)
