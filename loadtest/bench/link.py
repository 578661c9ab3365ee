"""One established stream of a generator, stripped to what load needs.

`workers.xmpp` negotiates the stream, then a link takes the connection over: it writes bytes that
were encoded before, searches what comes for stanza numbers, and counts for XEP-0198. Nothing is
parsed, so that a stanza costs a generator a tenth of what it costs a worker.
"""

import re
from collections.abc import Callable, Sequence

from websockets.datastructures import Headers

from loadtest.bench.stanzas import in_stream, numbers
from loadtest.bench.tally import Tally
from workers.gateway.channel import Channel
from workers.gateway.frames import text_frames
from workers.gateway.session import Session
from workers.gateway.tcp_session import TcpSession
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp import elements
from workers.xmpp.initiating import InitiatingStream

_REQUEST = b"<r "
_HANDLED = re.compile(rb"<a [^>]*h=.(\d+)")


class Link:
    """`TcpLink` or `WebSocketLink`; bytes of stanzas and of nonzas go through `write`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.sender = session.stream.sender
        self.target = session.stream.target
        self.channel: Channel = session.channel
        self.manages = session.stream.sent.enabled or session.stream.received.enabled
        """XEP-0198 is on."""
        self.tally: Tally | None = None
        self.received = 0
        self.sent = 0
        self.acknowledged = 0
        self.is_blocked = False
        self.is_closed = False
        self.on_progress: Callable[[Link], None] = lambda link: None
        """The peer has acknowledged more, or reads again, or the stream has ended."""

    def packed(self, messages: Sequence[bytes]) -> bytes:
        """Messages as they are written, with a request for acknowledgement behind them."""
        raise NotImplementedError

    def write(self, data: bytes, count: int) -> None:
        """Send what `packed` made of `count` stanzas, in TLS records of its own."""
        self.sent += count
        self.channel.write(data)
        self.channel.flush()

    def close(self) -> None:
        """Close the stream in order, as a server does."""
        self.session.close()

    def _take(self, data: bytes) -> None:
        found = numbers(data)
        if found:
            self.received += len(found)
            if self.tally is not None:
                self.tally.add(found)
        if _REQUEST in data:
            self._say(elements.sm_answer(self.received))
        handled = _HANDLED.findall(data)
        if handled:
            self.acknowledged = int(handled[-1])
            self.on_progress(self)

    def end(self) -> None:
        """The connection is gone."""
        self.is_closed = True
        self.on_progress(self)

    def _say(self, nonza: bytes) -> None:
        raise NotImplementedError

    def write_paused(self) -> None:
        self.is_blocked = True

    def write_resumed(self) -> None:
        self.is_blocked = False
        self.on_progress(self)


class TcpLink(Link):
    """On a TCP stream (RFC 6120)."""

    def __init__(self, session: TcpSession) -> None:
        super().__init__(session)
        self._tail = b""
        session.channel.owner = self

    def packed(self, messages: Sequence[bytes]) -> bytes:
        stanzas = in_stream(messages)
        return stanzas + elements.SM_REQUEST if self.manages else stanzas

    def close(self) -> None:
        self.channel.owner = self.session  # type: ignore[assignment]
        super().close()

    def _say(self, nonza: bytes) -> None:
        self.channel.write(nonza)

    # What the channel calls.

    def connected(self) -> None: ...

    def tls_established(self) -> None: ...

    def data_received(self, data: bytes) -> None:
        # All is looked for up to the last ">": what follows is looked at with the next read.
        data = self._tail + data
        end = data.rfind(b">") + 1
        self._tail = data[end:]
        self._take(data[:end])

    def eof_received(self) -> None:
        self.channel.close()

    def closed(self, reason: str | None) -> None:
        self.end()


class WebSocketLink(Link):
    """On a WebSocket (XEP-0468)."""

    def __init__(self, session: WebSocketSession) -> None:
        super().__init__(session)
        self._masks = isinstance(session.stream, InitiatingStream)
        self._websocket = session.websocket
        self._websocket.owner = self

    def packed(self, messages: Sequence[bytes]) -> bytes:
        tail = [elements.SM_REQUEST] if self.manages else []
        return text_frames([*messages, *tail], mask=self._masks)

    def close(self) -> None:
        assert isinstance(self.session, WebSocketSession)
        self._websocket.owner = self.session
        super().close()

    def _say(self, nonza: bytes) -> None:
        self._websocket.send_messages([nonza])

    # What the WebSocket calls.

    def websocket_opened(self, headers: Headers) -> None: ...

    def messages_received(self, messages: list[bytes]) -> None:
        self._take(messages[0] if len(messages) == 1 else b"".join(messages))

    def pong_received(self, payload: bytes) -> None: ...

    def websocket_closed(self, code: int, reason: str) -> None:
        self.end()
