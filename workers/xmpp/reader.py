"""The one place where XML parsers are made, so that no leg has a laxer one (RFC 6120 §11).

All have UTF-8 forced, no network, and no table of IDs, which xml:id would let grow for ever.
Entities stay resolved: with resolve_entities=False feed() swallows undeclared ones, and no DTD gets
in that could declare any. huge_tree takes 2048 levels instead of 256, which a user could exceed;
our own caps bound the rest.
"""

from typing import Literal
from xml.parsers import expat

from lxml import etree

EventName = Literal["start", "end", "comment", "pi"]


def pull_parser(
    events: tuple[EventName, ...], tags: list[str] | None = None
) -> etree.XMLPullParser:
    """For a document that comes in pieces; events of elements may be had for some tags only."""
    return etree.XMLPullParser(
        events=events,
        tag=tags,
        encoding="utf-8",
        no_network=True,
        collect_ids=False,
        huge_tree=True,
    )


def document_parser(*, recover: bool = False) -> etree.XMLParser:
    """For whole documents; one that recovers never raises, so its log must be looked at."""
    return etree.XMLParser(
        encoding="utf-8", no_network=True, collect_ids=False, huge_tree=True, recover=recover
    )


def read_own(data: bytes) -> etree._Element:
    """Read what our serializer wrote: all to be objected to is a namespace name that is no URI."""
    return etree.fromstring(data, document_parser(recover=True))


def expat_reads(document: bytes, *, namespaces: bool = True) -> bool:
    """Whether the parser of both stock servers takes this document for well-formed."""
    # The separator, of no use to us, turns namespaces on; no XML can contain this one.
    parser = expat.ParserCreate("utf-8", "\x01" if namespaces else None)
    try:
        parser.Parse(document, True)
    except expat.ExpatError:
        return False
    return True
