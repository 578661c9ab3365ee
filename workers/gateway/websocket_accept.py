"""The accepting role of a WebSocket's opening: who may open one, and what others are answered."""

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from cryptography import x509
from OpenSSL import SSL
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from workers.gateway import upgrade
from workers.gateway.admission import Entry
from workers.gateway.channel import UNREAD
from workers.gateway.forwarded import ForwardedRefused, TrustedProxies
from workers.gateway.frame_reader import LIBRARY_LOG
from workers.gateway.proxy_protocol import Introduction
from workers.gateway.turns import Turns
from workers.gateway.websocket import SUBPROTOCOL, WebSocketOwner
from workers.gateway.websocket_handshake import OpeningWebSocket

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 5.0


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """What a listener offers: shared by all its connections, may be changed while it runs."""

    path: str
    # Called for each accepted handshake, before the 101 leaves.
    new_owner: Callable[["AcceptedWebSocket"], WebSocketOwner]
    # None: plain HTTP behind a TLS-terminating proxy.
    context: SSL.Context | None
    # Whose word on peers behind them counts; without TLS nobody else may open a WebSocket.
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    # The origin of the published URL, as servers name it: a proxy may have changed Host.
    origin: str = ""
    # Largest message in bytes; larger ones end the connection with 1009.
    max_message: int = 524288
    # Answers every request that is not for the WebSocket; None is 404.
    http_responder: Callable[[Request], Response | None] = field(default=lambda _request: None)
    # Of the TLS handshakes of all its connections.
    turns: Turns = field(default_factory=Turns)
    # False while draining: 503.
    accepting: bool = True
    # COMPAT(PeerTube livechat): says for which peer addresses unmasked frames are tolerated.
    allow_unmasked: Callable[[str], bool] = field(default=lambda _address: False)


class AcceptedWebSocket(OpeningWebSocket):
    """The accepting role. `request` is known when the owner is made."""

    __slots__ = (
        "_deadline",
        "_endpoint",
        "_entry",
        "_forwarded_address",
        "_forwarded_chain",
        "_is_head",
        "_is_passed_through",
        "_server",
        "request",
    )

    def __init__(self, endpoint: Endpoint, entry: Entry | None = None) -> None:
        """`entry`: its place among all connections, None where nobody counts them."""
        protocol = ServerProtocol(
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            max_size=endpoint.max_message,
            logger=LIBRARY_LOG,
        )
        super().__init__(protocol)
        self._server = protocol
        self._endpoint = endpoint
        self._head = bytearray()
        self._deadline: asyncio.TimerHandle | None = None
        self._is_head = False
        self._entry = entry
        if entry is not None:
            entry.expect(self)
        self._is_passed_through = False
        self._forwarded_address = ""
        self._forwarded_chain: list[x509.Certificate] | None = None
        self.request: Request | None = None

    @property
    def peer_address(self) -> str:
        return self._forwarded_address or super().peer_address

    @property
    def is_behind_proxy(self) -> bool:
        return bool(self._forwarded_address)

    def peer_chain(self) -> list[x509.Certificate]:
        if self._forwarded_chain is not None:
            return self._forwarded_chain
        return super().peer_chain()

    def admitted(self, max_message: int) -> None:
        """The peer has proved who it is: it may send more and is no stranger any more."""
        self.limit_messages(max_message)
        if self._entry is not None:
            self._entry.prove()

    def turn_away(self, reason: str) -> None:
        self.abort(reason)

    def connected(self) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(HANDSHAKE_TIMEOUT, self._on_deadline)
        if self._endpoint.proxies.trusts(self.peer_address):
            Introduction(self.channel, self._introduced)
        else:
            self._start_tls()

    def _introduced(self, address: str | None) -> None:
        """The PROXY protocol has named the peer, or (None) is not spoken."""
        self._is_passed_through = address is not None
        if address and not self._name_peer(address):
            self.channel.abort("too many connections that have proved nothing")
        else:
            self._start_tls()

    def _start_tls(self) -> None:
        if self._endpoint.context is not None:
            self.channel.turns = self._endpoint.turns
            self.channel.start_tls(self._endpoint.context, server=True)

    def _name_peer(self, address: str) -> bool:
        """A proxy has told who the peer is; false if there are too many strangers from there."""
        self._forwarded_address = address
        return self._entry is None or self._entry.move(address)

    def closed(self, reason: str | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._entry is not None:
            if reason == UNREAD:
                self._entry.note("unread", reason)
            self._entry.leave()
        super().closed(reason)

    def _on_deadline(self) -> None:
        self._on_slow("no WebSocket handshake in time")
        self.channel.abort("no WebSocket handshake in time")

    def _on_slow(self, reason: str) -> None:
        if self._entry is not None:
            self._entry.note("slow", reason)

    def _on_long_head(self, head: bytes) -> None:
        self._server.receive_data(head)
        if self._server.handshake_exc is None:
            self._answer(_reject(self._server, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        else:
            self._on_bad_request()

    def _on_head(self, head: bytes, rest: bytes) -> None:
        server = self._server
        server.receive_data(head)
        requests = [event for event in server.events_received() if isinstance(event, Request)]
        if not requests:
            self._on_bad_request()
            return
        request = requests[0]
        response = self._respond(request, has_rest=bool(rest))
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self._open_with(request, response)
        else:
            self._is_head = request.method == "HEAD"
            self._answer(response)

    def _on_bad_request(self) -> None:
        writes = self._server.data_to_send()
        if not any(writes):
            # The library says nothing to what is no HTTP; a person with curl deserves an answer.
            writes = [_reject(self._server, HTTPStatus.BAD_REQUEST).serialize()]
        for data in writes:
            self.channel.write(data)
        self.channel.close("the peer does not speak HTTP")

    def _respond(self, request: Request, *, has_rest: bool) -> Response:
        server, endpoint = self._server, self._endpoint
        if len(request.headers.get_all("Host")) != 1:
            return _reject(server, HTTPStatus.BAD_REQUEST)  # RFC 9112 §3.2
        path = request.path.partition("?")[0]
        is_upgrade = upgrade.is_upgrade(request)
        if path != endpoint.path or (not is_upgrade and request.method != "GET"):
            if request.method not in ("GET", "HEAD"):
                return _reject(server, HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
            found = None if is_upgrade else endpoint.http_responder(request)
            return found or _reject(server, HTTPStatus.NOT_FOUND)
        refusal = self._why_not(request, has_rest=has_rest) if is_upgrade else None
        return server.accept(request) if refusal is None else _reject(server, refusal)

    def _why_not(self, request: Request, *, has_rest: bool) -> HTTPStatus | None:
        """The status with which to refuse an upgrade."""
        if has_rest:
            return HTTPStatus.BAD_REQUEST  # RFC 6455 §4.1: the client must wait for the response
        if (refusal := upgrade.flaw(request, origin=self._endpoint.origin)) is not None:
            return refusal
        if not self._endpoint.accepting:
            return HTTPStatus.SERVICE_UNAVAILABLE
        return self._hear_proxy(request.headers)

    def _hear_proxy(self, headers: Headers) -> HTTPStatus | None:
        """Learn whom a trusted proxy speaks for; the status with which to refuse the request."""
        proxies, sender = self._endpoint.proxies, self.peer_address
        if self._endpoint.context is None and not proxies.trusts(super().peer_address):
            # XEP-0468 §2.3: wss only, and only a proxy of ours can have seen to that.
            log.info("%s has no TLS and is not in websocket.trusted_proxies", sender)
            return HTTPStatus.FORBIDDEN
        if self._is_passed_through:
            return None  # what the peer says in HTTP is its own
        if proxies.forwards_certificates(sender):
            try:
                self._forwarded_chain = proxies.chain(headers)
            except ForwardedRefused as exc:
                log.warning("the proxy %s forwards no usable certificate: %s", sender, exc)
                return HTTPStatus.BAD_REQUEST
        address = proxies.address_of_peer(sender, headers)
        if address == sender:
            return None
        if self._forwarded_chain is None:
            self._forwarded_chain = []  # a proxy may show a certificate, too, but it is not theirs
        return None if self._name_peer(address) else HTTPStatus.TOO_MANY_REQUESTS

    def _open_with(self, request: Request, response: Response) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self.request = request
        self._allow_unmasked = self._endpoint.allow_unmasked(self.peer_address)
        self._server.send_response(response)
        self._write_protocol()
        self._begin()
        del self._server
        self.owner = self._endpoint.new_owner(self)
        self.owner.websocket_opened(request.headers)

    def _answer(self, response: Response) -> None:
        response.headers.setdefault("Connection", "close")
        response.headers.setdefault("Content-Length", str(len(response.body)))
        if self._is_head:
            response.body = b""
        self._server.send_response(response)
        self._write_protocol()


async def serve(endpoint: Endpoint, sock: socket.socket) -> asyncio.Server:
    """Accept WebSockets on a listening socket until the returned server is closed."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: AcceptedWebSocket(endpoint).channel, sock=sock)


def _reject(server: ServerProtocol, status: HTTPStatus, **headers: str) -> Response:
    response = server.reject(status, f"{status.value} {status.phrase}\n")
    if status is HTTPStatus.UPGRADE_REQUIRED:
        headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    for name, value in headers.items():
        response.headers[name] = value
    return response
