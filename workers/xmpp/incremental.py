"""lxml's incremental parser: how it is made here, and what is to be known of its complaints."""

from typing import Literal, cast

from lxml import etree

from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.parsed import DTD, KNOWN, NOT_WELL_FORMED, refusal


def elements(parser: etree.XMLPullParser) -> list[etree._Element]:
    """The elements of all events: with those we ask for, every one has an element."""
    return cast(list[etree._Element], [element for _, element in parser.read_events()])


def unreadable(data: bytes) -> RemoteProtocolError:
    if DTD.search(data):
        return RemoteProtocolError(StreamCondition.RESTRICTED_XML, "document type declaration")
    return RemoteProtocolError(NOT_WELL_FORMED)


_EventName = Literal["start", "end", "comment", "pi"]


def new_parser(
    events: tuple[_EventName, ...], tags: list[str] | None = None
) -> etree.XMLPullParser:
    # Entities stay resolved: with resolve_entities=False feed() swallows undeclared ones. No DTD
    # gets in that could declare any. collect_ids would let xml:id grow a table for ever.
    return etree.XMLPullParser(
        events=events, tag=tags, encoding="utf-8", no_network=True, collect_ids=False
    )


def namespace_errors(log: etree._ListErrorLog) -> bool:
    """Whether there is more than warnings (vcard-temp is a relative URI)."""
    return any(entry.level == etree.ErrorLevels.ERROR for entry in log)


def reads_back(element: etree._Element) -> bool:
    """Whether an element, possibly unfinished, is namespace-well-formed."""
    try:
        etree.fromstring(
            etree.tostring(element, encoding="utf-8", with_tail=False),
            etree.XMLParser(encoding="utf-8", no_network=True, collect_ids=False),
        )
    except etree.XMLSyntaxError:
        return False
    return True


def in_order(
    ended: list[etree._Element],
    children: list[etree._Element],
    failure: RemoteProtocolError | None,
) -> tuple[list[etree._Element], RemoteProtocolError | None]:
    """The complete children up to the first that may not be there, and what is wrong with it."""
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
        if isinstance(tag, str) and tag not in KNOWN:
            failure = refusal(tag)
    return complete, failure


def _is_inside(element: etree._Element, children: list[etree._Element], at: int) -> bool:
    """Whether an element that ended is nested in the child at `at`."""
    return at < len(children) and children[at] in element.iterancestors()
