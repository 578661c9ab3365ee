"""TCP legs: one document per direction (RFC 6120 §4.2), read in whatever pieces TCP delivers.

The header goes to a throw-away parser (`header_parser.py`), what follows to `stream_body.py`, all
but the closing tag, which is looked for here.
"""

from enum import IntEnum

from lxml import etree

from coordinator.config import Limits
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.header_parser import HeaderParser
from workers.xmpp.namespaces import SERVER, STANZAS
from workers.xmpp.parsed import (
    KNOWN,
    NOT_WELL_FORMED,
    WHITESPACE,
    Element,
    Judge,
    StreamFooter,
    StreamHeader,
    header_of,
)
from workers.xmpp.stream_body import Kinds, StreamBody


class _Phase(IntEnum):
    HEADER = 0
    BODY = 1
    BREAK = 2
    """Between two elements, without a parser."""
    OVER = 3


class StreamParser:
    """The parser of one TCP leg whose content namespace is jabber:server."""

    __slots__ = (
        "_body",
        "_footer",
        "_header_bytes",
        "_header_parser",
        "_held",
        "_judge",
        "_phase",
        "_restarted",
    )

    kinds = Kinds(SERVER, STANZAS, KNOWN)
    make_judge: type[Judge] = Judge

    _body: StreamBody
    """From the header on."""

    def __init__(self, limits: Limits, authenticated: bool = False) -> None:
        self._judge = self.make_judge(limits)
        self._header_bytes = limits.preauth_bytes
        self._restarted = False
        self._judge.set_authenticated(authenticated)
        self._phase = _Phase.HEADER
        self._start()

    @property
    def authenticated(self) -> bool:
        """Which caps apply: those before authentication are tight."""
        return self._judge.authenticated

    @authenticated.setter
    def authenticated(self, value: bool) -> None:
        self._judge.set_authenticated(value)

    @property
    def unfinished(self) -> int:
        """Which element behind the header, counted from 1, is not complete; 0 if none has begun."""
        return self._body.begun(self._held) if self._phase is _Phase.BODY else 0

    def reset(self) -> None:
        """Expect a new stream header: the stream restarts (RFC 6120 §4.3.3)."""
        self._restarted = True
        self._start()

    def shrink(self) -> None:
        """Nothing has come for a while: hold less memory, if nothing has begun.

        What comes next begins a new document.
        """
        if self._phase is _Phase.BODY and not self._held and self._body.shrink():
            self._phase = _Phase.BREAK

    def drop(self) -> None:
        """Nothing more will come; libxml2's trees are not in Python's count of what is garbage."""
        self._phase = _Phase.OVER
        self._held = b""
        for name in ("_header_parser", "_body"):
            if hasattr(self, name):
                delattr(self, name)

    def feed(self, data: bytes) -> list[Element]:
        """Take what was read. Never raises for its content."""
        out: list[Element] = []
        judge = self._judge
        try:
            if not judge.authenticated and self._phase is not _Phase.OVER:
                judge.take_bytes(data)
            if self._phase is _Phase.BODY:
                body = self._body
                if body.is_between and not self._held and (answer := judge.answer(data)):
                    body.taken += 1
                    out.append(answer)  # as libxml2 would see it: 15 µs less
                # The common case: no closing tag, and none that begins. Backwards, as below.
                elif not self._held and data[-1:] == b">" and data.rfind(self._footer) < 0:
                    if data.endswith(judge.requests):
                        body.read_request(data, out)
                    else:
                        body.read(data, out)
                else:
                    self._feed_body(data, out)
            elif self._phase is _Phase.HEADER:
                self._feed_header(data, out)
            elif self._phase is _Phase.BREAK:
                self._body.go_on()
                self._phase = _Phase.BODY
                self._feed_body(data, out)
            if not judge.authenticated:
                judge.take_elements(len(out))
        except RemoteProtocolError as exc:
            self._phase = _Phase.OVER
            out.append(exc.bare())
        return out

    def _start(self) -> None:
        self._phase = _Phase.HEADER
        self._held = b""
        self._header_parser = HeaderParser(self._header_bytes, is_restart=self._restarted)

    # The header.

    def _feed_header(self, data: bytes, out: list[Element]) -> None:
        found = self._header_parser.feed(data)
        if found is None:
            return
        element, rest = found
        if isinstance(element, StreamFooter):
            self._phase = _Phase.OVER
            out.append(element)
            return
        out.append(self._open(element))
        self._feed_body(rest, out)

    def _open(self, element: etree._Element) -> StreamHeader:
        """Start reading what follows the header."""
        name = f"{element.prefix}:stream" if element.prefix else "stream"
        self._footer = f"</{name}".encode()
        content = element.nsmap.get(None, "")
        prefixes = {prefix: uri for prefix, uri in element.nsmap.items() if prefix}
        self._body = StreamBody(self._judge, self.kinds, prefixes, content)
        header = header_of(element, content)
        self._judge.set_lang(header.lang)
        self._phase = _Phase.BODY
        del self._header_parser
        return header

    # The body.

    def _feed_body(self, data: bytes, out: list[Element]) -> None:
        """Feed all but a closing tag of the stream, which the made-up root would not match."""
        if self._held:
            data, self._held = self._held + data, b""
        body, footer = self._body, self._footer
        start, at = 0, data.find(footer)
        while at >= 0:
            body.read(data[start:at], out)
            if not body.is_unfinished:
                self._close(data[at:], out)
                return
            # Inside a stanza this is CDATA's text or an element of that name.
            start, at = at, data.find(footer, at + len(footer))
        if start:
            data = data[start:]
        if data[-1:] != b">":
            # The last bytes may be the beginning of the closing tag: wait for the rest of it.
            at = data.rfind(b"<", -len(footer))
            if at >= 0 and footer.startswith(data[at:]):
                data, self._held = data[:at], data[at:]
        if data:
            body.read(data, out)

    def _close(self, data: bytes, out: list[Element]) -> None:
        """`data` begins with the closing tag. It counts if it would close our root as well."""
        rest = data[len(self._footer) :].lstrip(WHITESPACE)
        if not rest:
            if len(data) > self._header_bytes:
                raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "endless closing tag")
            self._held = data
            return
        if not (self._body.may_end() and rest.startswith(b">")):
            raise RemoteProtocolError(NOT_WELL_FORMED)
        self._phase = _Phase.OVER
        out.append(StreamFooter())
