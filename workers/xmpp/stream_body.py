"""What follows a TCP stream's header: one document without an end, read by libxml2 in pieces.

The incremental parser is fed the stream's elements as content of a made-up root that binds what the
header bound. Its name is secret, so a peer cannot close it:

    <SECRET xmlns='jabber:server' xmlns:stream='…'>  <message …>…</message><r …/><iq …

After each read the complete children are serialised together (1 µs a stanza instead of 2 one by
one), with the secret between them to cut the bytes apart, and removed. So the tree never grows,
and between reads it holds nothing but one unfinished child at most. libxml2 relies on that too: it
remembers the buffer of the text node it was writing, which must not be replaced under it.
"""

import re
import secrets
from collections.abc import Mapping
from operator import itemgetter
from typing import NamedTuple

from lxml import etree

from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.incremental import (
    elements,
    in_order,
    namespace_errors,
    odd_names,
    reads_back,
    unreadable,
)
from workers.xmpp.namespaces import STANZAS
from workers.xmpp.parsed import (
    NOT_WELL_FORMED,
    REQUEST,
    REQUEST_SIZE,
    TOO_LARGE,
    WHITESPACE,
    Element,
    Judge,
    is_blank,
    refusal,
    serialised,
)
from workers.xmpp.prefixes import declarations, declared, used_in
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


class Kinds(NamedTuple):
    """What a stream is made of."""

    content: str
    """The namespace of its stanzas."""
    stanzas: Mapping[str, str]
    """Their tags, with their names."""
    known: frozenset[str]
    """All tags that may stand at the top level."""


class StreamBody:
    """All that follows one header, whose prefixes are `prefixes`, without the closing tag."""

    __slots__ = (
        "_beginning",
        "_declarations",
        "_flaw",
        "_judge",
        "_known",
        "_log_size",
        "_parser",
        "_pending_bytes",
        "_pending_tags",
        "_probe",
        "_remembered",
        "_root",
        "_root_size",
        "_stanzas",
        "_suspect",
        "is_between",
        "is_unfinished",
        "taken",
    )

    is_between: bool
    """It is known that the last byte given to libxml2 ended a child of the root."""
    _suspect: bool
    """A namespace name was no URI: the log alone does not tell any more."""

    def __init__(
        self, judge: Judge, kinds: Kinds, prefixes: Mapping[str, str], default: str
    ) -> None:
        """`default` is the header's default namespace, "" if it has none.

        Raises policy-violation for too many prefixes.
        """
        self._judge = judge
        self._known, self._stanzas = kinds.known, kinds.stanzas
        self._probe = f"<message xmlns='{kinds.content}'/>".encode()
        self.taken = 0
        """How many children were complete so far."""
        self.is_unfinished = False
        """libxml2 has begun another one."""
        self._flaw: RemoteProtocolError | None = None
        """What `shrink` has found."""
        self._remembered = b""
        self._pending_bytes = self._pending_tags = 0
        self._declarations = declarations(prefixes)
        bound = b"".join(declaration for _, declaration in self._declarations)
        if default:
            bound = f"xmlns={attribute(default)} ".encode() + bound
        self._beginning = b"<" + _SEPARATOR + b" " + bound + b">"
        self._attach()

    def begun(self, held: bytes) -> int:
        """Which element, counted from 1, is not complete; 0 if none has begun.

        `held` are bytes that were read and not given to `read` yet.
        """
        if not self.is_unfinished and not held and self._remembered[-1:] == b">":
            return 0  # the common case
        # Whether white space goes before an element or is in one, libxml2 knows.
        ends = (self._remembered + held).rstrip(WHITESPACE)[-1:]
        return self.taken + 1 if self.is_unfinished or ends not in (b"", b">") else 0

    def shrink(self) -> bool:
        """Do without libxml2's parser, if nothing has begun: until `go_on` nothing may be read.

        It holds 10 KiB, or 50 after large reads.
        """
        if self.is_unfinished or self._suspect:
            return False
        read = self._remembered.rstrip(WHITESPACE)
        if read and _WHOLE_TAG.search(read) is None:
            return False
        # Was that tag inside of what can become no element any more, a comment or the beginning of
        # a CDATA section? Only libxml2 knows.
        try:
            is_at_root = self._is_at_root()
        except RemoteProtocolError:
            is_at_root = False
        if not is_at_root:
            self._flaw = RemoteProtocolError(NOT_WELL_FORMED, "no element")
        del self._parser, self._root
        return True

    def go_on(self) -> None:
        """Read on in a new document. Raises not-well-formed if the old one was broken."""
        if self._flaw is not None:
            raise self._flaw
        self._attach()

    def may_end(self) -> bool:
        """Whether nothing has begun, be it text. Raises not-well-formed.

        The document is of no use afterwards.
        """
        # Not by closing the root, for which libxml2 brings up what was tolerated.
        return self._is_at_root() and is_blank(self._root.text)

    def _is_at_root(self) -> bool:
        """Nothing has begun: only libxml2 knows, and makes the probe a child of the root then.

        Raises not-well-formed. The document is of no use afterwards but to find out what is wrong.
        """
        try:
            self._parser.feed(self._probe)
        except etree.XMLSyntaxError:
            raise RemoteProtocolError(NOT_WELL_FORMED) from None
        return [each.getparent() for each in elements(self._parser)] == [self._root]

    def _attach(self) -> None:
        """Begin the document of the body with the made-up root's start tag."""
        self._parser = parser = pull_parser(("end", "comment", "pi"), list(self._known))
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
        self._suspect = False
        self.is_between = True

    def read(self, data: bytes, out: list[Element]) -> None:
        """Feed bytes and take out every child that is complete."""
        if not data:
            return
        failure: RemoteProtocolError | None = None
        parser, root = self._parser, self._root
        self.is_between = False
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
            ended, failure = in_order(ended, children, failure, self._known)
        elif len(children) > len(ended) and children[-1].tag not in self._known:
            failure = refusal(str(children[-1].tag))
        if len(parser.feed_error_log) != self._log_size or self._suspect:  # 0.2 µs a read
            ended, failure = self._look_into_log(ended, children, failure)
        count = len(ended)
        self.is_unfinished = len(children) > count
        children.clear()  # see `_take_out`
        if count or root.text is not None:
            failure = self._take_out(ended, data, failure, out)
        if failure is not None:
            raise failure
        if not count:
            self._check_pending(data)
        elif (
            self._suspect
            and not self.is_unfinished
            and data.endswith(_END_TAGS)
            and self._is_at_root()
        ):
            self._attach()  # a new document, a new log

    def read_request(self, data: bytes, out: list[Element]) -> None:
        """An `<r/>` ends what was read: behind one stanza, as a rule, libxml2 need not see it.

        That is what most servers write at once, and costs a quarter less then.
        """
        before = data[:-REQUEST_SIZE]
        end = before[before.rfind(b"<") :]
        beginning = _BEGINNINGS.get(end)
        if (
            beginning is None
            or self.is_unfinished
            or not before.startswith(beginning)
            or before.find(end) < len(before) - len(end)
        ):
            self.read(data, out)
            return
        self.read(before, out)
        # Has anything else begun, of which libxml2 has seen no end (a comment that ends like the
        # stanza)? It would have brought `<` beyond those of the stanza, all of which came now; and
        # the serializer never writes more of them than it has read.
        if (
            len(out) == 1
            and isinstance(stanza := out[0], Stanza)
            and stanza.data.count(b"<") == before.count(b"<")
        ):
            self.taken += 1
            out.append(REQUEST)
        else:
            self.read(data[-REQUEST_SIZE:], out)

    def _take_lone(self, ended: list[etree._Element], data: bytes, out: list[Element]) -> bool:
        """Take the only child if it is complete and plain; False, and nothing done, if not.

        As `_take_out` would, for a third less of what a stanza costs that comes alone.
        """
        root, judge, element = self._root, self._judge, ended[0]
        tag = element.tag
        if (
            tag not in self._known
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
        if (name := self._stanzas.get(tag)) is None:
            out.append(judge.nonza(element))
        else:
            piece = declared(piece, name, self._declarations)
            out.append(judge.stanza(element, name, piece))
        self.taken += 1
        self.is_unfinished = False
        # It ended in this read, with the only `>` that is there: nothing has begun behind it.
        self.is_between = data.find(b">") == len(data) - 1
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
        self.taken += count
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
        used = used_in(written, self._root_size, self._declarations)
        judge, stanzas = self._judge, self._stanzas
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
            if used:
                piece = declared(piece, name, used)
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
        if self._pending_bytes > (8 if judge.authenticated else 2) * judge.max_bytes:
            raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, TOO_LARGE)
        tags = 4 * judge.max_elements
        if self._pending_tags > (max(tags, judge.max_bytes // 2) if judge.authenticated else tags):
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
