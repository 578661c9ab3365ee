"""The connecting role of a WebSocket's opening."""

import asyncio
import socket
from collections.abc import Callable, Mapping

from OpenSSL import SSL
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from workers.gateway.channel import Channel
from workers.gateway.frame_reader import LIBRARY_LOG
from workers.gateway.websocket import SUBPROTOCOL, WebSocket, WebSocketOwner
from workers.gateway.websocket_handshake import MAX_HEAD, OpeningWebSocket


class WebSocketFailed(Exception):
    """The WebSocket could not be opened; the text says why, for the operator."""


class ConnectedWebSocket(OpeningWebSocket):
    """The connecting role; made by `connect`."""

    __slots__ = (
        "_client",
        "_headers",
        "_opened",
        "_start",
        "_verify",
    )

    def __init__(
        self,
        protocol: ClientProtocol,
        owner: WebSocketOwner,
        *,
        start: Callable[[Channel], None],
        verify: Callable[[Channel], None],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(protocol)
        self.owner = owner
        self._client = protocol
        self._head = bytearray()
        self._start = start
        self._verify = verify
        self._headers = headers
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connected(self) -> None:
        self._start(self.channel)
        if not self._client.uri.secure:
            self._send_request()

    def tls_established(self) -> None:
        try:
            self._verify(self.channel)
        except WebSocketFailed as exc:
            self._fail(str(exc))
            return
        self._send_request()

    def _send_request(self) -> None:
        request = self._client.connect()
        for name, value in self._headers.items():
            request.headers[name] = value
        self._client.send_request(request)
        self._write_protocol()

    def eof_received(self) -> None:
        self._fail("the server ended the connection before its response")
        super().eof_received()

    def closed(self, reason: str | None) -> None:
        self._fail(reason or "the connection ended before the handshake")
        super().closed(reason)

    def _on_long_head(self, head: bytes) -> None:
        self._fail(f"the response has more than {MAX_HEAD} bytes of headers")

    def _on_head(self, head: bytes, rest: bytes) -> None:
        status = head.partition(b"\r\n")[0][:128].decode("ascii", "replace")
        if not status.startswith("HTTP/1.1 101"):
            self._fail(f"the server answered {status!r}")
            return
        client = self._client
        client.receive_data(head)
        responses = [event for event in client.events_received() if isinstance(event, Response)]
        if client.handshake_exc is not None:
            self._fail(f"invalid handshake: {client.handshake_exc}")
        elif client.subprotocol != SUBPROTOCOL:
            # RFC 7395 §3.1
            self._fail("the server did not select the subprotocol xmpp")
        else:
            self._begin()
            del self._client, self._start, self._verify, self._headers
            if self.owner is not None:
                self.owner.websocket_opened(responses[0].headers)
            if not self._opened.done():
                self._opened.set_result(None)
            if rest:
                super().data_received(rest)

    def _fail(self, reason: str) -> None:
        if not self._opened.done():
            self._opened.set_exception(WebSocketFailed(reason))
            self.channel.close(reason)

    async def wait_opened(self) -> None:
        """Raises `WebSocketFailed`."""
        await self._opened

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._opened.cancel()
        self.channel.abort("given up before the handshake was complete")


def _accept_any_peer(_channel: Channel) -> None:
    """For tests and for peers that authenticate otherwise."""


async def connect(
    url: str,
    owner: WebSocketOwner,
    *,
    address: tuple[str, int] | socket.socket,
    context: SSL.Context | None,
    server_name: str | None = None,
    verify: Callable[[Channel], None] = _accept_any_peer,
    headers: Mapping[str, str] | None = None,
    max_message: int = 524288,
    timeout: float = 10.0,
) -> WebSocket:
    """Open a WebSocket to `url` at `address`, an IP address and port that were checked before.

    Or on a connected, non-blocking socket, which belongs to the WebSocket from now on.
    `context` is None for `ws:` only, on networks that are trusted otherwise. `server_name` is the
    SNI, by default the URL's host. `verify` is called after the TLS handshake
    and before the request leaves; it refuses the server by raising `WebSocketFailed`.
    Raises `WebSocketFailed` after at most `timeout` seconds.
    """
    try:
        uri = parse_uri(url)
    except InvalidURI as exc:
        raise WebSocketFailed(str(exc)) from exc
    if uri.secure != (context is not None):
        raise WebSocketFailed(f"{url} is not a {'ws' if context is None else 'wss'} URL")

    def start(channel: Channel) -> None:
        if context is not None:
            channel.start_tls(context, server=False, server_name=server_name or uri.host)

    protocol = ClientProtocol(
        uri, subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=max_message, logger=LIBRARY_LOG
    )
    websocket = ConnectedWebSocket(
        protocol, owner, start=start, verify=verify, headers=headers or {}
    )
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            if isinstance(address, socket.socket):
                await loop.create_connection(lambda: websocket.channel, sock=address)
            else:
                await loop.create_connection(lambda: websocket.channel, *address)
            await websocket.wait_opened()
    except TimeoutError as exc:
        websocket.give_up()
        raise WebSocketFailed(f"no WebSocket within {timeout:g} s") from exc
    except OSError as exc:
        raise WebSocketFailed(f"cannot connect: {exc}") from exc
    except asyncio.CancelledError:
        websocket.give_up()
        raise
    return websocket
