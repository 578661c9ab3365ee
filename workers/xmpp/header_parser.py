"""The beginning of a TCP stream (RFC 6120 §4.7): its header, read piece by piece up to its `>`.

libxml2's parser is thrown away with it: what follows is read by another one (`stream_body.py`).
"""

import re
from codecs import BOM_UTF8

from lxml import etree

from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.incremental import elements, namespace_errors
from workers.xmpp.namespaces import STREAM_HEADER
from workers.xmpp.parsed import DTD, NOT_WELL_FORMED, WHITESPACE, StreamFooter, undecodable
from workers.xmpp.reader import pull_parser

# No XML declaration is longer: what is checked again and again while a header trickles in.
_MAX_DECLARATION = 256
_ANY_FOOTER = re.compile(rb"</[^\s<>/]{0,64}\s*>")


class HeaderParser:
    """Of one header, of at most `max_bytes`."""

    __slots__ = ("_held", "_is_restart", "_max_bytes", "_parser", "_taken")

    def __init__(self, max_bytes: int, *, is_restart: bool) -> None:
        self._max_bytes = max_bytes
        self._is_restart = is_restart
        self._taken = 0
        self._held = b""
        self._parser = pull_parser(("start", "comment", "pi"))  # it holds 10 KiB

    def feed(self, data: bytes) -> tuple[etree._Element | StreamFooter, bytes] | None:
        """The header and what came behind it; None while it is not complete.

        A footer: the peer closes instead of restarting. Raises `RemoteProtocolError`.
        """
        if not self._taken:
            data = (self._held + data).lstrip(WHITESPACE)
            self._held = b""
            if len(data) < 4:
                self._held = data  # too short to tell UTF-16 from the beginning of a tag
                return None
            if (foreign := undecodable(data)) is not None:
                raise foreign
            if data.startswith(BOM_UTF8):  # RFC 6120 §11.6
                raise RemoteProtocolError(NOT_WELL_FORMED, "byte order mark")
        if self._is_restart and data.startswith(b"</") and _ANY_FOOTER.match(data):
            return StreamFooter(), b""  # there is no header to match the tag with
        # Piece by piece up to each `>`, so that not a byte beyond the header is taken.
        start = 0
        while start < len(data):
            end = data.find(b">", start) + 1 or len(data)
            element = self._feed_piece(data[start:end])
            start = end
            if element is not None:
                return element, data[start:]
        return None

    def _feed_piece(self, piece: bytes) -> etree._Element | None:
        self._taken += len(piece)
        if self._taken > self._max_bytes:
            raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "stream header too large")
        parser = self._parser
        seen = len(self._held)
        self._held += piece
        if seen <= _MAX_DECLARATION and (foreign := undecodable(self._held)) is not None:
            raise foreign
        if DTD.search(self._held, max(0, seen - 2)):
            raise RemoteProtocolError(StreamCondition.RESTRICTED_XML, "document type declaration")
        try:
            parser.feed(piece)
        except etree.XMLSyntaxError:
            raise RemoteProtocolError(NOT_WELL_FORMED) from None
        for element in elements(parser):
            if not isinstance(element.tag, str):
                raise RemoteProtocolError(StreamCondition.RESTRICTED_XML, "comment or instruction")
            if namespace_errors(parser.feed_error_log):
                raise RemoteProtocolError(NOT_WELL_FORMED, "namespaces")
            if element.tag != STREAM_HEADER:
                raise _no_header(element.tag)
            return element
        return None


def _no_header(tag: str) -> RemoteProtocolError:
    condition = (
        StreamCondition.INVALID_NAMESPACE
        if tag.rpartition("}")[2] == "stream"
        else StreamCondition.BAD_FORMAT
    )
    return RemoteProtocolError(condition, "a stream header was expected")
