"""The forensics that decide which element of a read was the bad one."""

import pytest

from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.incremental import (
    elements,
    namespace_errors,
    odd_names,
    read_odd_names,
    reads_back,
    unreadable,
)
from workers.xmpp.reader import pull_parser


def test_unbound_prefixes_are_only_logged_but_found() -> None:
    parser = pull_parser(("end",))
    parser.feed(b"<r><good/><bad><x:a/></bad>")
    good, _, bad = elements(parser)
    assert namespace_errors(parser.feed_error_log)
    assert reads_back(good) and not reads_back(bad)


def test_warnings_are_no_errors() -> None:
    parser = pull_parser(("end",))
    parser.feed(b"<r><vCard xmlns='vcard-temp'/>")
    assert len(parser.feed_error_log) and not namespace_errors(parser.feed_error_log)


def test_a_dtd_is_told_from_cdata() -> None:
    assert unreadable(b"<!DOCTYPE a").condition is StreamCondition.RESTRICTED_XML
    assert unreadable(b"<![CDATA[").condition is StreamCondition.NOT_WELL_FORMED


def test_odd_names_are_told_from_errors() -> None:
    parser = pull_parser(("end",))
    parser.feed(b"<r><a xmlns='a b'/>")
    assert odd_names(parser.feed_error_log) and not namespace_errors(parser.feed_error_log)
    parser.feed(b"<x:a/>")
    assert namespace_errors(parser.feed_error_log)


@pytest.mark.parametrize(
    "bad", [b"<x:b/>", b"<b>", b"<b", b"&c;", b"<b c='' c=''/>", b"<b><b/>" * 3000 + b"</b>" * 3000]
)
@pytest.mark.parametrize("count", [1, 150])
def test_nothing_but_odd_names_is_tolerated(bad: bytes, count: int) -> None:
    names = b"<a xmlns='a b'/>" * count
    assert len(read_odd_names(b"<r>" + names + b"</r>")) == count
    with pytest.raises(RemoteProtocolError):
        read_odd_names(b"<r>" + names + bad + b"</r>")
