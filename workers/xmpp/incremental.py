"""What is to be known of the complaints of lxml's parsers.

A namespace name that is no URI (`xmlns='a b'`) is an error to libxml2. To the parser of both stock
servers, expat, it is none, and it need not be (Namespaces in XML 1.0 §7). Any user can send one:
it must not end the stream that all users of a server share. It costs care, because libxml2 logs
100 errors per document and no more: behind such a name expat is asked as well.
"""

from collections.abc import Collection
from typing import cast

from lxml import etree

from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.parsed import DTD, KNOWN, NOT_WELL_FORMED, refusal
from workers.xmpp.reader import document_parser, expat_reads

NOT_A_URI = etree.ErrorTypes.WAR_NS_URI


def elements(parser: etree.XMLPullParser) -> list[etree._Element]:
    """The elements of all events: with those we ask for, every one has an element."""
    return cast(list[etree._Element], [element for _, element in parser.read_events()])


def unreadable(data: bytes) -> RemoteProtocolError:
    if DTD.search(data):
        return RemoteProtocolError(StreamCondition.RESTRICTED_XML, "document type declaration")
    return RemoteProtocolError(NOT_WELL_FORMED)


def namespace_errors(log: etree._ListErrorLog) -> bool:
    """Whether there is more than warnings (vcard-temp is a relative URI) and odd names."""
    return any(entry.level == etree.ErrorLevels.ERROR and entry.type != NOT_A_URI for entry in log)


def odd_names(log: etree._ListErrorLog) -> bool:
    """Whether a namespace name was no URI: from then on errors may be missing in the log."""
    return any(entry.type == NOT_A_URI for entry in log)


def reads_back(element: etree._Element) -> bool:
    """Whether an element, possibly unfinished, is namespace-well-formed."""
    return expat_reads(etree.tostring(element, encoding="utf-8", with_tail=False))


def read_odd_names(document: bytes) -> etree._Element:
    """Read a document with namespace names that are no URIs. Raises not-well-formed for all else.

    The parser recovers from any error here, so its log decides: fatal errors are always in it.
    """
    parser = document_parser(recover=True)
    root = etree.fromstring(document, parser)
    log = parser.error_log
    is_broken = any(entry.level == etree.ErrorLevels.FATAL for entry in log)
    if is_broken or namespace_errors(log) or not expat_reads(document):
        raise unreadable(document)
    return root


def in_order(
    ended: list[etree._Element],
    children: list[etree._Element],
    failure: RemoteProtocolError | None,
    known: Collection[str] = KNOWN,
) -> tuple[list[etree._Element], RemoteProtocolError | None]:
    """The complete children up to the first that may not be there, and what is wrong with it.

    Elements named in `known` may be there.
    """
    complete: list[etree._Element] = []
    for element in ended:
        if not isinstance(element.tag, str):
            failure = RemoteProtocolError(StreamCondition.RESTRICTED_XML, "comment or instruction")
            break
        if len(complete) < len(children) and element is children[len(complete)]:
            complete.append(element)
        elif not _is_inside(element, children, len(complete)):
            break  # an unknown element before it, found below
    if len(complete) < len(children):
        tag = children[len(complete)].tag
        if isinstance(tag, str) and tag not in known:
            failure = refusal(tag)
    return complete, failure


def _is_inside(element: etree._Element, children: list[etree._Element], at: int) -> bool:
    """Whether an element that ended is nested in the child at `at`."""
    return at < len(children) and children[at] in element.iterancestors()
