"""The parsers: bytes of a peer become stanzas, nonzas, headers and footers.

`StreamParser` reads a TCP leg's one long document, `MessageParser` the messages of a WebSocket leg.
Neither raises for what a peer sends: the last item returned may be a `RemoteProtocolError`; the
parser is dead then and returns nothing more. `reader` makes what they parse with.
"""

from workers.xmpp.message_parser import MessageParser
from workers.xmpp.parsed import Answer, Element, Nonza, Request, StreamFooter, StreamHeader
from workers.xmpp.stream_parser import StreamParser

__all__ = [
    "Answer",
    "Element",
    "MessageParser",
    "Nonza",
    "Request",
    "StreamFooter",
    "StreamHeader",
    "StreamParser",
]
