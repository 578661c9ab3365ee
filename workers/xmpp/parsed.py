"""What both parsers hand out, and the judgement on one parsed element that they share."""

import re
from dataclasses import dataclass
from typing import ClassVar

from lxml import etree

from coordinator.config import Limits
from workers.xmpp import elements, namespaces
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.jid import AmbiguousJid, InvalidJid, domain_of, domains
from workers.xmpp.namespaces import (
    DIALBACK,
    FRAMING_SERVER,
    SERVER,
    SM,
    SM_ANSWER,
    SM_REQUEST,
    STANZAS,
    XML_LANG,
)
from workers.xmpp.shape import Shape, is_unfit, odd_name
from workers.xmpp.stanza import RefusedStanza, Stanza
from workers.xmpp.vocabulary import Vocabulary
from workers.xmpp.xml_text import attribute

WHITESPACE = b" \t\r\n"
TEXT_WHITESPACE = " \t\r\n"
ENCODING_DECLARATION = re.compile(rb"<\?xml\s[^>]*?encoding\s*=\s*['\"]([^'\"]*)['\"]")
# `<![CDATA[` is legal (RFC 6120 §11.1 does not name it); a letter after `<!` is always a DTD's.
DTD = re.compile(rb"<![A-Za-z]")

# COMPAT(xmpp-proxy 1.x): it replaces `jabber:server` wherever it stands in a header.
_DIALBACK_DECLARATIONS = {DIALBACK, f"{FRAMING_SERVER}:dialback"}
_LANG = b' xml:lang="'
_MAX_LANG = 64
# Before authentication a stream may bring so many elements, eight times the bytes of the largest,
# and few names that are not known (see `vocabulary`).
_STRANGERS_ELEMENTS = 128
_STRANGERS_FACTOR = 8
_SM = rf"""xmlns=(?:'{SM}'|"{SM}")"""
_H = r"""h=('[0-9]{1,10}'|"[0-9]{1,10}")"""
_ANSWER = re.compile(f"<a (?:{_SM} {_H}|{_H} {_SM})/>".encode())
_MAX_ATTRIBUTES = 16
_MAX_PREFIXES = 16
_STRANGERS_ATTRIBUTES = 64


@dataclass(slots=True)
class StreamHeader:
    """`<stream:stream>` or `<open/>`; the attributes as the peer wrote them, None if absent."""

    sender: str | None
    recipient: str | None
    id: str | None
    version: str | None
    lang: str | None
    dialback: bool
    """The dialback namespace is declared (XEP-0220 §2.4.1)."""
    namespace: str
    """The framing namespace on WebSocket, the content namespace ('' if none) on TCP."""


@dataclass(slots=True)
class StreamFooter:
    """`</stream:stream>` or `<close/>`."""

    see_other_uri: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """`<r/>` (XEP-0198 §4). It and its answer come often: not lxml's, they may need no parser."""

    tag: ClassVar[str] = SM_REQUEST


REQUEST = Request()
REQUEST_SIZE = len(elements.SM_REQUEST)


@dataclass(slots=True)
class Answer:
    """`<a/>` (XEP-0198 §4)."""

    tag: ClassVar[str] = SM_ANSWER
    h: str
    """As the peer wrote it, "" if absent."""


# All others stay lxml elements.
Nonza = etree._Element | Answer | Request
# One parsed thing, in wire order. An error is always the last.
Element = Stanza | RefusedStanza | StreamHeader | StreamFooter | Nonza | RemoteProtocolError


def header_of(element: etree._Element, namespace: str) -> StreamHeader:
    """Read the attributes of a stream header of either leg. Raises policy-violation."""
    declared = element.nsmap
    if len(element.attrib) > _MAX_ATTRIBUTES or len(declared) > _MAX_PREFIXES + 1:
        raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "too many attributes")
    if any(is_unfit(uri) or not (prefix or "").isascii() for prefix, uri in declared.items()):
        raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "an unfit namespace name")
    return StreamHeader(
        element.get("from"),
        element.get("to"),
        element.get("id"),
        element.get("version"),
        element.get(XML_LANG),
        not _DIALBACK_DECLARATIONS.isdisjoint(declared.values()),
        namespace,
    )


def refusal(tag: str) -> RemoteProtocolError:
    """Why an element with this name cannot stand at the top level of a stream."""
    local = tag.rpartition("}")[2]
    if local in ("message", "presence", "iq", "open", "close", "stream", "features", "error"):
        return RemoteProtocolError(StreamCondition.INVALID_NAMESPACE, f"wrong namespace of {local}")
    return RemoteProtocolError(StreamCondition.UNSUPPORTED_STANZA_TYPE, "unknown element")


def serialised(root: etree._Element, *, is_ascii: bool) -> bytes:
    """`root` in UTF-8; `is_ascii`: it was read from nothing but ASCII.

    Without libxml2's encoder that costs 0.3 µs less, or 0.1 per stanza of many; from text in other
    scripts a str would cost more than it saves.
    """
    if is_ascii:
        return etree.tostring(root, encoding="unicode").encode()
    return etree.tostring(root, encoding="utf-8")


def undecodable(data: bytes) -> RemoteProtocolError | None:
    """Recognise UTF-16 and UTF-32 and a declared encoding other than UTF-8 (RFC 6120 §11.6)."""
    declared = ENCODING_DECLARATION.match(data)
    foreign = declared is not None and declared[1].upper() not in (b"UTF-8", b"UTF8")
    if foreign or data[:2] in (b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<", b"\0\0"):
        return RemoteProtocolError(StreamCondition.UNSUPPORTED_ENCODING, "UTF-8 only")
    return None


class Judge:
    """The rules an element must keep, with the caps of the stream's stage.

    Size and shape are measured on what our serializer wrote.
    """

    __slots__ = (
        "_limits",
        "_shape",
        "_strange_bytes",
        "_strange_elements",
        "_vocabulary",
        "authenticated",
        "lang",
        "max_bytes",
        "max_elements",
        "plain_size",
    )

    requests: tuple[bytes, ...] = (
        elements.SM_REQUEST,
        elements.SM_REQUEST.replace(b"'", b'"'),
    )
    """Spellings of `<r/>` that peers use, of `REQUEST_SIZE` bytes: they stand for `REQUEST`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._strange_bytes = self._strange_elements = 0
        self._vocabulary = Vocabulary()
        self._shape = Shape(limits)
        self.lang = b""
        self.set_authenticated(False)
        self.set_lang(None)

    def set_authenticated(self, authenticated: bool) -> None:
        limits = self._limits
        self.authenticated = authenticated
        if authenticated:
            self._vocabulary = Vocabulary()  # the old one may hold some bytes
        self.max_bytes = limits.stanza_bytes if authenticated else limits.preauth_bytes
        self.max_elements = limits.elements if authenticated else limits.preauth_elements
        self.plain_size = min(self._shape.plain_size(self.max_elements), self.max_bytes)

    def set_lang(self, lang: str | None) -> None:
        """The stream's language, for stanzas that name none (RFC 6120 §4.7.4)."""
        written = f"xml:lang={attribute(lang)} " if lang and len(lang) <= _MAX_LANG else ""
        self.lang = written.encode()

    def take_bytes(self, data: bytes) -> None:
        """Count what a stranger has us read, before libxml2 reads it. Raises policy-violation.

        For names that are too many because a document type declares them: restricted-xml.
        """
        self._strange_bytes += len(data)
        if self._strange_bytes > _STRANGERS_FACTOR * self._limits.preauth_bytes:
            raise RemoteProtocolError(
                StreamCondition.POLICY_VIOLATION, "too much before authentication"
            )
        try:
            self._vocabulary.take(data)
        except RemoteProtocolError as exc:
            if DTD.search(data):
                exc.condition, exc.text = (
                    StreamCondition.RESTRICTED_XML,
                    "document type declaration",
                )
            raise

    def take_elements(self, count: int) -> None:
        """Count what a stranger has us handle. Raises policy-violation."""
        self._strange_elements += count
        if self._strange_elements > _STRANGERS_ELEMENTS:
            raise RemoteProtocolError(
                StreamCondition.POLICY_VIOLATION, "too many elements before authentication"
            )

    def flaw(self, data: bytes, *, names: bool = False) -> str:
        """Which cap a serialised element breaks, or with `names` what is odd; "" if nothing."""
        return self._shape.flaw(data, self.max_elements) or (odd_name(data) if names else "")

    def outsized(self, element: etree._Element, name: str | None, flaw: str) -> RefusedStanza:
        """What becomes of a complete element that breaks a cap; `name` is None for a nonza.

        Raises policy-violation for a nonza and before authentication.
        """
        if name is None or not self.authenticated:
            raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, flaw)
        return _refused(element, name, flaw)

    def answer(self, data: bytes) -> Answer | Request | None:
        """What `data` is if it is `<a/>` or `<r/>`, all of it, in a spelling that peers use."""
        if data in self.requests:
            return REQUEST
        if len(data) > self.plain_size or (found := _ANSWER.fullmatch(data)) is None:
            return None
        return Answer((found[1] or found[2])[1:-1].decode())

    def nonza(self, element: etree._Element) -> Nonza:
        """Judge any other element. Raises `RemoteProtocolError`."""
        if not isinstance(element.tag, str):
            raise RemoteProtocolError(StreamCondition.RESTRICTED_XML, "comment or instruction")
        if len(element.attrib) > _MAX_ATTRIBUTES or (
            not self.authenticated
            and sum(len(each.attrib) for each in element.iter("*")) > _STRANGERS_ATTRIBUTES
        ):
            raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "too many attributes")
        if element.tag == SM_ANSWER:
            return Answer(element.get("h", ""))
        if element.tag == SM_REQUEST:
            return REQUEST
        element.tail = None
        return element

    def stanza(self, element: etree._Element, name: str, data: bytes) -> Stanza | RefusedStanza:
        """Make a stanza of an element and its serialised form. Raises `RemoteProtocolError`."""
        get = element.get
        sender, recipient = get("from"), get("to")
        try:  # senders repeat themselves
            sender_domain, target_domain = domains[sender], domains[recipient]  # type: ignore[index]
        except KeyError:
            _, sender_domain, flaw = _address(name, sender, "from")
            _, target_domain, other = _address(name, recipient, "to")
            if flaw or other:
                return _refused(element, name)
        start, length = _STARTS[name]
        if not data.startswith(start):
            raise RemoteProtocolError(  # RFC 6120 §4.8.5: no prefix for the content namespace
                StreamCondition.BAD_NAMESPACE_PREFIX, f"{name} with a namespace prefix"
            )
        # Namespaces are written first. Splicing bytes costs 0.17 µs, setting attributes and
        # serialising anew 2 µs.
        first = data[length : length + 6]
        if first != b"xmlns=" and not (first == b"xmlns:" and declares(data, b' xmlns="')):
            start += _DECLARATION
        if self.lang and data.find(_LANG, 0, data.find(b">")) < 0:  # as `declares`, in line
            start += self.lang
        if len(start) > length:
            data = start + data[length:]
        return Stanza(
            name,
            data,
            sender,  # type: ignore[arg-type]
            recipient,  # type: ignore[arg-type]
            get("id"),
            get("type"),
            sender_domain,
            target_domain,
        )


_STARTS = {name: (f"<{name} ".encode(), len(name) + 2) for name in STANZAS.values()}
_DECLARATION = f"xmlns='{SERVER}' ".encode()


def _refused(element: etree._Element, name: str, reason: str = "") -> RefusedStanza:
    """Raises improper-addressing. `reason` may be left out if an address is the reason.

    Its addresses are written to peers when it is bounced, so they are made plain.
    """
    get = element.get
    sender, sender_domain, flaw = _address(name, get("from"), "from")
    recipient, target_domain, other = _address(name, get("to"), "to")
    stanza = Stanza(
        name, b"", sender, recipient, get("id"), get("type"), sender_domain, target_domain
    )
    return RefusedStanza(stanza, reason or flaw or other)


def _address(name: str, jid: str | None, role: str) -> tuple[str, str, str]:
    """A plain address, its domain and what was ambiguous about it, "" if nothing.

    Raises improper-addressing.
    """
    if jid is None:  # RFC 6120 §8.1.1.2, §8.1.2.2
        raise RemoteProtocolError(StreamCondition.IMPROPER_ADDRESSING, f"{name} without {role}")
    try:
        return jid, domain_of(jid), ""
    except AmbiguousJid as exc:
        return exc.plain, exc.domain, str(exc)
    except InvalidJid:
        raise RemoteProtocolError(
            StreamCondition.IMPROPER_ADDRESSING, f"{name} with an invalid address"
        ) from None


def declares(data: bytes, beginning: bytes) -> bool:
    """Whether a serialised element's own start tag has an attribute that begins so."""
    # In attribute values our serializer escapes `"` and `>`: neither search can be fooled.
    return data.find(beginning, 0, data.find(b">")) >= 0


def is_blank(text: str | None) -> bool:
    return not text or not text.strip(TEXT_WHITESPACE)


NOT_WELL_FORMED = StreamCondition.NOT_WELL_FORMED
TOO_LARGE = "stanza too large"
KNOWN = frozenset(namespaces.STANZAS) | namespaces.NONZAS
