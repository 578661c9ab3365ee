"""The exact shapes of protocol §5.1, and text that cannot break out of them."""

from lxml import etree

from workers.xmpp.errors import StreamCondition
from workers.xmpp.framing import StreamFraming, WebSocketFraming


def test_open_has_the_shape_byte_matching_peers_expect() -> None:
    assert WebSocketFraming().header(
        "montague.example", "capulet.example", "s-7f", response=True
    ) == (
        b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing-server'"
        b" xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'"
        b" id='s-7f' from='montague.example' to='capulet.example' version='1.0' xml:lang='en'/>"
    )


def test_unknown_addresses_are_left_out_and_values_hold_no_bracket() -> None:
    header = WebSocketFraming().header("a'>/b", "", "no", response=False)
    assert b" to=" not in header and b" id=" not in header
    assert header.count(b">") == 1
    assert etree.fromstring(header).get("from") == "a'>/b"


def test_tcp_header_and_footer_make_a_document() -> None:
    framing = StreamFraming()
    document = framing.header("a.example", "b.example") + framing.footer("wss://ignored")
    assert etree.fromstring(document).get("to") == "b.example"


def test_errors_and_features_stand_alone() -> None:
    error = WebSocketFraming().error(StreamCondition.RESET, "<&>", b"<x xmlns='u'/>")
    assert [child.tag.rpartition("}")[2] for child in etree.fromstring(error)] == [
        "reset",
        "text",
        "x",
    ]
    assert len(etree.fromstring(StreamFraming().features([b"<x xmlns='u'/>"]))) == 1
    assert StreamFraming().element(b"<a/>") == b"<a/>"
