"""TCP legs: one document per direction (RFC 6120 §4.2), read in whatever pieces TCP delivers.

The real header goes to a throw-away parser (`header_parser.py`). What follows is fed to an
incremental one, as content of a made-up root that binds what the header bound. Its name is secret,
so a peer cannot close it:

    <SECRET xmlns='jabber:server' xmlns:stream='…'>  <message …>…</message><r …/><iq …

After each read the complete children are serialised together (1 µs a stanza instead of 2 one by
one), with the secret between them to cut the bytes apart, and removed. So the tree never grows,
and between reads it holds nothing but one unfinished child at most. libxml2 relies on that too: it
remembers the buffer of the text node it was writing, which must not be replaced under it.
"""

import re
import secrets
from enum import IntEnum
from operator import itemgetter

from lxml import etree

from coordinator.config import Limits
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.header_parser import HeaderParser
from workers.xmpp.incremental import (
    elements,
    in_order,
    namespace_errors,
    odd_names,
    reads_back,
    unreadable,
)
from workers.xmpp.namespaces import SERVER, STANZAS
from workers.xmpp.parsed import (
    KNOWN,
    NOT_WELL_FORMED,
    REQUEST,
    REQUEST_SIZE,
    TOO_LARGE,
    WHITESPACE,
    Element,
    Judge,
    StreamFooter,
    StreamHeader,
    declares,
    header_of,
    is_blank,
    refusal,
    serialised,
)
from workers.xmpp.reader import pull_parser
from workers.xmpp.shape import is_beyond_ascii
from workers.xmpp.stanza import Stanza
from workers.xmpp.xml_text import attribute

# Never sent to anyone: error texts of lxml, which quote names, stay out of what peers are told.
_SECRET = f"r{secrets.token_hex(16)}"
_SEPARATOR = _SECRET.encode()
# What the serializer writes last if no text is behind the last child: in text it escapes `>`.
_END_ALONE = b"></" + _SEPARATOR + b">"
_BEFORE_END = 1 - len(_END_ALONE)
_element_of = itemgetter(1)
_MAX_PREFIXES = 16
_MAX_DECLARATIONS = 1024
# The last bytes that were read: longer than the beginning of a DTD that libxml2 may want to see
# before it complains, and than most nonzas.
_REMEMBERED = 96
_BEGINNINGS = {f"</{name}>".encode(): f"<{name} ".encode() for name in STANZAS.values()}
# After these, and no child unfinished, as a rule nothing can be pending that libxml2 has not seen.
_END_TAGS = tuple(_BEGINNINGS)
# An end tag, or an element without content, is the last that was read.
_WHOLE_TAG = re.compile(
    rb"<(?:/[^<>]*|[^<>'\"/!?][^<>'\"]*(?:(?:'[^'<]*'|\"[^\"<]*\")[^<>'\"]*)*/)>\Z"
)


class _Phase(IntEnum):
    HEADER = 0
    BODY = 1
    BREAK = 2
    """Between two elements, without a parser."""
    OVER = 3


class StreamParser:
    """The parser of one TCP leg whose content namespace is jabber:server."""

    __slots__ = (
        "_authenticated",
        "_beginning",
        "_declarations",
        "_flaw",
        "_footer",
        "_header_bytes",
        "_header_parser",
        "_held",
        "_is_between",
        "_judge",
        "_log_size",
        "_parser",
        "_pending_bytes",
        "_pending_tags",
        "_phase",
        "_remembered",
        "_restarted",
        "_root",
        "_root_size",
        "_suspect",
        "_taken",
        "_unfinished",
    )

    content = SERVER
    stanzas = STANZAS
    known = KNOWN
    """All that may stand at the top level."""
    make_judge: type[Judge] = Judge

    _is_between: bool
    """The last byte that libxml2 was given ended a child of the root."""
    _suspect: bool
    _flaw: RemoteProtocolError | None
    """What `shrink` has found."""

    def __init__(self, limits: Limits, authenticated: bool = False) -> None:
        self._judge = self.make_judge(limits)
        self._header_bytes = limits.preauth_bytes
        self._restarted = False
        self._authenticated = authenticated
        self._judge.set_authenticated(authenticated)
        self._phase = _Phase.HEADER
        self._start()

    @property
    def authenticated(self) -> bool:
        """Which caps apply: those before authentication are tight."""
        return self._authenticated

    @authenticated.setter
    def authenticated(self, value: bool) -> None:
        self._authenticated = value
        self._judge.set_authenticated(value)

    @property
    def unfinished(self) -> int:
        """Which element behind the header, counted from 1, is not complete; 0 if none has begun."""
        if self._phase is not _Phase.BODY:
            return 0
        if not self._unfinished and not self._held and self._remembered[-1:] == b">":
            return 0  # the common case
        # Whether white space goes before an element or is in one, libxml2 knows.
        ends = (self._remembered + self._held).rstrip(WHITESPACE)[-1:]
        return self._taken + 1 if self._unfinished or ends not in (b"", b">") else 0

    def reset(self) -> None:
        """Expect a new stream header: the stream restarts (RFC 6120 §4.3.3)."""
        self._restarted = True
        self._start()

    def shrink(self) -> None:
        """Nothing has come for a while: do without libxml2's parser, if nothing has begun.

        It holds 10 KiB, or 50 after large reads. What comes next begins a new document.
        """
        if self._phase is not _Phase.BODY or self._held or self._unfinished or self._suspect:
            return
        read = self._remembered.rstrip(WHITESPACE)
        if read and _WHOLE_TAG.search(read) is None:
            return
        # Was that tag inside of what can become no element any more, a comment or the beginning of
        # a CDATA section? Only libxml2 knows.
        try:
            is_at_root = self._is_at_root()
        except RemoteProtocolError:
            is_at_root = False
        if not is_at_root:
            self._flaw = RemoteProtocolError(NOT_WELL_FORMED, "no element")
        del self._parser, self._root
        self._phase = _Phase.BREAK

    def _is_at_root(self) -> bool:
        """Nothing has begun: only libxml2 knows, and makes the probe a child of the root then.

        Raises not-well-formed. The document is of no use afterwards but to find out what is wrong.
        """
        try:
            self._parser.feed(self._probe)
        except etree.XMLSyntaxError:
            raise RemoteProtocolError(NOT_WELL_FORMED) from None
        return [each.getparent() for each in elements(self._parser)] == [self._root]

    def drop(self) -> None:
        """Nothing more will come; libxml2's trees are not in Python's count of what is garbage."""
        self._phase = _Phase.OVER
        self._held = self._remembered = b""
        for name in ("_header_parser", "_parser", "_root"):
            if hasattr(self, name):
                delattr(self, name)

    def feed(self, data: bytes) -> list[Element]:
        """Take what was read. Never raises for its content."""
        out: list[Element] = []
        try:
            if not self._authenticated and self._phase is not _Phase.OVER:
                self._judge.take_bytes(data)
            if self._phase is _Phase.BODY:
                if self._is_between and not self._held and (answer := self._judge.answer(data)):
                    self._taken += 1
                    out.append(answer)  # as libxml2 would see it: 15 µs less
                # The common case: no closing tag, and none that begins. Backwards, as below.
                elif not self._held and data[-1:] == b">" and data.rfind(self._footer) < 0:
                    if data.endswith(self._judge.requests):
                        self._read_request(data, out)
                    else:
                        self._read(data, out)
                else:
                    self._feed_body(data, out)
            elif self._phase is _Phase.HEADER:
                self._feed_header(data, out)
            elif self._phase is _Phase.BREAK:
                self._go_on()
                self._feed_body(data, out)
            if not self._authenticated:
                self._judge.take_elements(len(out))
        except RemoteProtocolError as exc:
            self._phase = _Phase.OVER
            out.append(exc)
        return out

    def _go_on(self) -> None:
        if self._flaw is not None:
            raise self._flaw
        self._phase = _Phase.BODY
        self._attach()

    def _start(self) -> None:
        self._phase = _Phase.HEADER
        self._held = b""
        self._remembered = b""
        self._pending_bytes = 0
        self._pending_tags = 0
        self._taken = 0
        self._unfinished = False
        self._flaw = None
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
        self._bind({prefix: uri for prefix, uri in element.nsmap.items() if prefix}, content)
        header = header_of(element, content)
        self._judge.set_lang(header.lang)
        self._phase = _Phase.BODY
        del self._header_parser
        return header

    def _bind(self, prefixes: dict[str, str], content: str) -> None:
        # Used prefixes are declared on each stanza that leaves: bounded, against amplification.
        self._declarations = [
            (f"{prefix}:".encode(), f"xmlns:{prefix}={attribute(uri)} ".encode())
            for prefix, uri in prefixes.items()
        ]
        declared = b"".join(declaration for _, declaration in self._declarations)
        if len(prefixes) > _MAX_PREFIXES or len(declared) > _MAX_DECLARATIONS:
            raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "too many prefixes")
        default = f"xmlns={attribute(content)} ".encode() if content else b""
        self._beginning = b"<" + _SEPARATOR + b" " + default + declared + b">"
        self._attach()

    def _attach(self) -> None:
        """Begin the document of the body with the made-up root's start tag."""
        self._parser = parser = pull_parser(("end", "comment", "pi"), list(self.known))
        # The probe, never seen by the peer, gives us the root; it leaves before the peer's bytes.
        parser.feed(self._beginning + self._probe)
        root = elements(parser)[0].getparent()
        if root is None:
            raise AssertionError("the probe is a child of the root")
        self._root: etree._Element = root
        del root[:]
        # `<SECRET …/>` as the serializer writes it, but open.
        self._root_size = len(etree.tostring(root, encoding="utf-8")) - 1
        self._log_size = len(parser.feed_error_log)
        # A namespace name was no URI: the log alone does not tell any more.
        self._suspect = False
        self._is_between = True

    @property
    def _probe(self) -> bytes:
        return f"<message xmlns='{self.content}'/>".encode()

    # The body.

    def _feed_body(self, data: bytes, out: list[Element]) -> None:
        """Feed all but a closing tag of the stream, which the made-up root would not match."""
        if self._held:
            data, self._held = self._held + data, b""
        footer = self._footer
        start, at = 0, data.find(footer)
        while at >= 0:
            self._read(data[start:at], out)
            if not self._unfinished:
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
            self._read(data, out)

    def _close(self, data: bytes, out: list[Element]) -> None:
        """`data` begins with the closing tag. It counts if it would close our root as well."""
        rest = data[len(self._footer) :].lstrip(WHITESPACE)
        if not rest:
            if len(data) > self._header_bytes:
                raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "endless closing tag")
            self._held = data
            return
        # Not by closing the root, for which libxml2 brings up what was tolerated.
        if not (self._is_at_root() and rest.startswith(b">") and is_blank(self._root.text)):
            raise RemoteProtocolError(NOT_WELL_FORMED)
        self._phase = _Phase.OVER
        out.append(StreamFooter())

    def _read(self, data: bytes, out: list[Element]) -> None:
        """Feed bytes and take out every child that is complete."""
        if not data:
            return
        failure: RemoteProtocolError | None = None
        parser, root = self._parser, self._root
        self._is_between = False
        try:
            parser.feed(data)
        except etree.XMLSyntaxError:
            failure = unreadable(self._remembered + data)
        if b"\0" in data:  # no XML; inside CDATA it stalls libxml2 without an error
            failure = failure or RemoteProtocolError(NOT_WELL_FORMED)
        self._remembered = (
            data[-_REMEMBERED:]
            if len(data) >= _REMEMBERED
            else (self._remembered + data)[-_REMEMBERED:]
        )
        ended: list[etree._Element] = list(map(_element_of, parser.read_events()))
        if len(ended) == 1 and failure is None and self._take_lone(ended, data, out):
            return
        children = list(root)
        # Compared by identity, in C: every event was of a child of the root and no child lacks one.
        if ended != children and ended != children[:-1]:
            ended, failure = in_order(ended, children, failure, self.known)
        elif len(children) > len(ended) and children[-1].tag not in self.known:
            failure = refusal(str(children[-1].tag))
        if len(parser.feed_error_log) != self._log_size or self._suspect:  # 0.2 µs a read
            ended, failure = self._look_into_log(ended, children, failure)
        count = len(ended)
        self._unfinished = len(children) > count
        children.clear()  # see `_take_out`
        if count or root.text is not None:
            failure = self._take_out(ended, data, failure, out)
        if failure is not None:
            raise failure
        if not count:
            self._check_pending(data)
        elif (
            self._suspect
            and not self._unfinished
            and data.endswith(_END_TAGS)
            and self._is_at_root()
        ):
            self._attach()  # a new document, a new log

    def _read_request(self, data: bytes, out: list[Element]) -> None:
        """An `<r/>` ends what was read: behind one stanza, as a rule, libxml2 need not see it.

        That is what most servers write at once, and costs a quarter less then.
        """
        before = data[:-REQUEST_SIZE]
        end = before[before.rfind(b"<") :]
        beginning = _BEGINNINGS.get(end)
        if (
            beginning is None
            or self._unfinished
            or not before.startswith(beginning)
            or before.find(end) < len(before) - len(end)
        ):
            self._read(data, out)
            return
        self._read(before, out)
        # Has anything else begun, of which libxml2 has seen no end (a comment that ends like the
        # stanza)? It would have brought `<` beyond those of the stanza, all of which came now; and
        # the serializer never writes more of them than it has read.
        if (
            len(out) == 1
            and isinstance(stanza := out[0], Stanza)
            and stanza.data.count(b"<") == before.count(b"<")
        ):
            self._taken += 1
            out.append(REQUEST)
        else:
            self._read(data[-REQUEST_SIZE:], out)

    def _take_lone(self, ended: list[etree._Element], data: bytes, out: list[Element]) -> bool:
        """Take the only child if it is complete and plain; False, and nothing done, if not.

        As `_take_out` would, for a third less of what a stanza costs that comes alone.
        """
        root, judge, element = self._root, self._judge, ended[0]
        tag = element.tag
        if (
            tag not in self.known
            or len(root) != 1
            or root[0] is not element
            or root.text is not None
            or self._suspect
            or len(self._parser.feed_error_log) != self._log_size
        ):
            return False
        # It needs no secret to be cut out.
        written = serialised(root, is_ascii=data.isascii())
        piece = written[self._root_size : _BEFORE_END]
        if (
            not written.endswith(_END_ALONE)
            or len(piece) > judge.plain_size
            or is_beyond_ascii(written)
        ):
            return False
        if (name := self.stanzas.get(tag)) is None:
            out.append(judge.nonza(element))
        else:
            for prefix, declaration in self._declarations:
                if piece.rfind(prefix) >= 0:  # see `_judge_all`
                    piece = _declare(piece, name, declaration)
            out.append(judge.stanza(element, name, piece))
        self._taken += 1
        self._unfinished = False
        # It ended in this read, with the only `>` that is there: nothing has begun behind it.
        self._is_between = data.find(b">") == len(data) - 1
        self._pending_bytes = self._pending_tags = 0
        ended.clear()
        del element  # see `_take_out`
        del root[:1]
        return True

    def _take_out(
        self,
        ended: list[etree._Element],
        data: bytes,
        failure: RemoteProtocolError | None,
        out: list[Element],
    ) -> RemoteProtocolError | None:
        """Serialise the first children, which are complete, judge them and remove them.

        `ended` is empty then. An element that nobody holds is freed as it is removed; for any
        other lxml would first look after the namespaces it had of the root: 0.5 µs.
        """
        root = self._root
        if root.text is not None:
            if not is_blank(root.text):
                return RemoteProtocolError(StreamCondition.BAD_FORMAT, "text between stanzas")
            root.text = None
        self._pending_bytes = self._pending_tags = 0
        if not ended:
            return failure
        failure = self._set_apart(ended, failure)
        written = serialised(root, is_ascii=data.isascii())
        pieces = written[self._root_size :].split(_SEPARATOR)
        count = len(ended)
        self._judge_all(ended, pieces, written, out)
        self._taken += count
        ended.clear()
        del root[:count]
        return failure

    def _set_apart(
        self, ended: list[etree._Element], failure: RemoteProtocolError | None
    ) -> RemoteProtocolError | None:
        """Put the secret behind each child; those from the first text between them on fall out."""
        for at, element in enumerate(ended, 1):
            tail = element.tail
            element.tail = _SECRET
            if tail is not None and not is_blank(tail):
                del ended[at:]
                return RemoteProtocolError(StreamCondition.BAD_FORMAT, "text between stanzas")
        return failure

    def _judge_all(
        self,
        ended: list[etree._Element],
        pieces: list[bytes],
        written: bytes,
        out: list[Element],
    ) -> None:
        """`written` is the root with the elements in it, `pieces` are they as they stand there."""
        used = []
        for item in self._declarations:
            # One search of the lot for each prefix of the header: hardly any is ever used.
            # Backwards, which takes CPython 0.06 µs a stanza instead of 0.15.
            if written.rfind(item[0], self._root_size) >= 0:
                used.append(item)
        judge, stanzas = self._judge, self.stanzas
        # No size is plain if a name may not be.
        plain_size = -1 if self._suspect or is_beyond_ascii(written) else judge.plain_size
        for element, piece in zip(ended, pieces, strict=False):
            name = stanzas.get(element.tag)
            if len(piece) > plain_size:
                names = plain_size < 0
                flaw = TOO_LARGE if len(piece) > judge.max_bytes else judge.flaw(piece, names=names)
                if flaw:
                    out.append(judge.outsized(element, name, flaw))
                    continue
            if name is None:
                out.append(judge.nonza(element))
                continue
            for prefix, declaration in used:
                if prefix in piece:
                    piece = _declare(piece, name, declaration)
            out.append(judge.stanza(element, name, piece))

    def _check_pending(self, data: bytes) -> None:
        """Cap what an unfinished element may cost. It is measured exactly once it is complete."""
        judge = self._judge
        self._pending_bytes += len(data)
        if self._pending_bytes <= judge.plain_size:
            return
        self._pending_tags += data.count(b"<")
        # `'` may come as `&apos;`, and a user's stanza of more elements than allowed is refused,
        # once complete, without the stream: these caps are what no server's own limit lets pass.
        if self._pending_bytes > (8 if self._authenticated else 2) * judge.max_bytes:
            raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, TOO_LARGE)
        tags = 4 * judge.max_elements
        if self._pending_tags > (max(tags, judge.max_bytes // 2) if self._authenticated else tags):
            raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "too many elements")

    # What libxml2 objects to.

    def _look_into_log(
        self,
        ended: list[etree._Element],
        children: list[etree._Element],
        failure: RemoteProtocolError | None,
    ) -> tuple[list[etree._Element], RemoteProtocolError | None]:
        """feed() only logs errors of namespaces. Nothing after such an error may be believed."""
        log = self._parser.feed_error_log
        self._log_size = len(log)
        self._suspect = odd_names(log)
        is_bad = namespace_errors(log)
        if is_bad or self._suspect:
            for at, element in enumerate(children):
                if not reads_back(element):
                    return ended[:at], RemoteProtocolError(NOT_WELL_FORMED, "namespaces")
        if is_bad:
            # It left no trace in the tree (a forbidden declaration): it may be in any of them.
            return [], RemoteProtocolError(NOT_WELL_FORMED, "namespaces")
        return ended, failure


def _declare(piece: bytes, name: str, declaration: bytes) -> bytes:
    """Put a prefix of the stream header on a stanza, unless it binds that prefix itself."""
    start = f"<{name} ".encode()
    if not piece.startswith(start) or declares(piece, b" " + declaration.partition(b"=")[0] + b"="):
        return piece
    return start + declaration + piece[len(start) :]
