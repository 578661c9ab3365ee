"""What both roles do before a WebSocket opens (RFC 6455 §4): collect the head of the HTTP message.

`websocket_accept.py` and `websocket_connect.py` are the roles, both with subprotocol xmpp.
"""

from workers.gateway.websocket import WebSocket

# Node.js allows 16 KiB, nginx 32; servers that federate send less than 1.
MAX_HEAD = 16384
_END_OF_HEAD = b"\r\n\r\n"


class OpeningWebSocket(WebSocket):
    """Tells its head, once it is whole, and what came behind it."""

    __slots__ = ()

    def _take_head(self, data: bytes) -> None:
        head = self._head
        if head is None:
            raise AssertionError("the head is complete")
        searched = max(0, len(head) - 3)
        head += data
        end = head.find(_END_OF_HEAD, searched)
        size = end + 4 if end >= 0 else len(head)
        if size > MAX_HEAD:
            self._head = None
            self._on_long_head(bytes(head[:size]))
        elif end >= 0:
            self._head = None
            self._on_head(bytes(head[:size]), bytes(head[size:]))

    def _on_head(self, head: bytes, rest: bytes) -> None:
        raise NotImplementedError

    def _on_long_head(self, head: bytes) -> None:
        raise NotImplementedError
