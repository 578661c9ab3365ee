"""The forensics that decide which element of a read was the bad one."""

from workers.xmpp.errors import StreamCondition
from workers.xmpp.incremental import elements, namespace_errors, new_parser, reads_back, unreadable


def test_unbound_prefixes_are_only_logged_but_found() -> None:
    parser = new_parser(("end",))
    parser.feed(b"<r><good/><bad><x:a/></bad>")
    good, _, bad = elements(parser)
    assert namespace_errors(parser.feed_error_log)
    assert reads_back(good) and not reads_back(bad)


def test_warnings_are_no_errors() -> None:
    parser = new_parser(("end",))
    parser.feed(b"<r><vCard xmlns='vcard-temp'/>")
    assert len(parser.feed_error_log) and not namespace_errors(parser.feed_error_log)


def test_a_dtd_is_told_from_cdata() -> None:
    assert unreadable(b"<!DOCTYPE a").condition is StreamCondition.RESTRICTED_XML
    assert unreadable(b"<![CDATA[").condition is StreamCondition.NOT_WELL_FORMED
