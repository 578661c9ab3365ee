"""The parsers: bytes of a peer become stanzas, nonzas, headers and footers.

`StreamParser` reads a TCP leg's one long document, `MessageParser` the messages of a WebSocket leg.
Neither raises for what a peer sends: the last item returned may be a `RemoteProtocolError`; the
parser is dead then and returns nothing more. Every parser of peers' XML in the project is made
here and in these two modules, with the same restrictions (RFC 6120 §11).
"""

from workers.xmpp.message_parser import MessageParser
from workers.xmpp.parsed import Element, StreamFooter, StreamHeader
from workers.xmpp.stream_parser import StreamParser

__all__ = ["Element", "MessageParser", "StreamFooter", "StreamHeader", "StreamParser"]
