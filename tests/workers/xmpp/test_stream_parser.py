"""TCP legs: everything holds whole and split at any byte."""

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.workers.xmpp.stream_parsing import (
    GOOD,
    HEADER,
    LIMITS,
    brief,
    odd,
    opened,
    outcome,
    whole,
)
from workers.xmpp import namespaces
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.parser import StreamFooter, StreamParser
from workers.xmpp.stanza import Stanza


def canonical(data: bytes) -> bytes:
    return etree.tostring(etree.parse(BytesIO(data)), method="c14n2")


def test_stanza_gets_the_namespace_and_language_of_its_stream() -> None:
    (stanza,) = opened().feed(GOOD)
    assert isinstance(stanza, Stanza)
    assert stanza.data.startswith(b"<message xmlns='jabber:server' xml:lang='en' from=")
    assert (stanza.sender_domain, stanza.target_domain) == ("capulet.example", "montague.example")
    assert b"etherx" not in stanza.data and b"dialback" not in stanza.data


def test_own_language_and_namespace_are_kept() -> None:
    data = GOOD.replace(b"<message ", b"<message xml:lang='de' xmlns:q='u' xmlns='jabber:server' ")
    (stanza,) = opened().feed(data)
    assert isinstance(stanza, Stanza)
    assert canonical(stanza.data) == canonical(data)


def test_language_inside_does_not_count_as_own() -> None:
    (stanza,) = opened().feed(GOOD.replace(b"<body>", b"<body xml:lang='de'>"))
    assert isinstance(stanza, Stanza)
    assert etree.fromstring(stanza.data).get(namespaces.XML_LANG) == "en"


def test_serialised_stanza_has_the_same_infoset() -> None:
    body = (
        b"<body>&lt;a&gt; &amp; \xc3\xa9 <![CDATA[<!-- <b> ]] ]]>&#13;</body>"
        b"<x xmlns='vcard-temp' a='&quot;&#10;&gt;'><y xmlns=''/><p:z xmlns:p='u' p:q='1'/></x>"
    )
    data = GOOD.replace(b"<body>hi</body>", body).replace(
        b"<message ", b"<message xmlns='jabber:server' xml:lang='en' "
    )
    (stanza,) = opened().feed(data)
    assert isinstance(stanza, Stanza)
    assert canonical(stanza.data) == canonical(data)


@pytest.mark.parametrize(
    "bad",
    [
        b"<message from='a.example' to='b.example'><x:a/></message>",
        b"<message xmlns:a='u' xmlns:b='u'><c a:x='1' b:x='2'/></message>",
        b"<message><a:b:c xmlns:a='u'/></message>",
        b"<message a='1' a='2'/>",
        b"<message>&undeclared;</message>",
        b"<message>\xff</message>",
        b"<message>\xed\xa0\x80</message>",
        b"<message>\x00</message>",
        b"<message>&#0;</message>",
        b"</message>",
        b"</r>",
    ],
)
def test_bad_xml_ends_the_stream_after_what_was_good(bad: bytes) -> None:
    """Traps 2 and 3: namespace errors that feed() only logs, entities it could swallow."""
    *good, condition = outcome(GOOD + bad + GOOD)
    assert len(good) == 1
    assert condition is StreamCondition.NOT_WELL_FORMED


IQ = b"<iq from='a.example' to='b.example' type='get' id='1' xmlns:q='c d'/>"


@pytest.mark.parametrize("last", [odd(1), odd(1) + b" ", IQ, IQ + b"\n", IQ + GOOD, odd(2) + IQ])
def test_a_footer_closes_behind_odd_names_too(last: bytes) -> None:
    assert outcome(last + b"</stream:stream>")[-1] == StreamFooter()


@pytest.mark.parametrize("begun", [b"<!--", b"<!--</message>", b"<![CDATA[</message>", b"text"])
def test_a_footer_in_what_has_begun_behind_odd_names_closes_nothing(begun: bytes) -> None:
    parser = opened()
    items = parser.feed(odd(1) + begun) + parser.feed(b"</stream:stream>") + parser.feed(b"-->")
    assert StreamFooter() not in items
    assert len(items) < 2 or isinstance(items[-1], RemoteProtocolError)
    assert all(isinstance(item, RemoteProtocolError) for item in items[1:])


def test_nothing_is_parsed_after_an_error() -> None:
    """Trap 4: lxml would begin a fresh document, DOCTYPE and all."""
    parser = opened()
    assert isinstance(parser.feed(b"</r>")[-1], RemoteProtocolError)
    assert parser.feed(HEADER + GOOD) == []


def test_footer_closes_the_stream_and_the_root_cannot_be_closed() -> None:
    """Trap 5."""
    assert outcome(GOOD + b" </stream:stream \n>" + GOOD)[1:] == [StreamFooter()]
    assert outcome(b"</stream:streams>") == [StreamCondition.NOT_WELL_FORMED]
    assert outcome(b"<message></stream:stream>") == [StreamCondition.NOT_WELL_FORMED]


def test_footer_text_inside_a_stanza_is_text() -> None:
    first, second = outcome(GOOD.replace(b"hi", b"<![CDATA[</stream:stream>]]>") + GOOD)
    assert b"&lt;/stream:stream&gt;" in first[1]  # type: ignore[index]
    assert second[0] == "message"  # type: ignore[index]


def test_nonzas_with_the_headers_prefixes_keep_their_place() -> None:
    """Trap 5: db: and stream: are bound; trap 8: order and removal stay right."""
    items = opened().feed(
        GOOD + b"<db:result from='a' to='b'>k</db:result>\n<r xmlns='urn:xmpp:sm:3'/>" + GOOD
    )
    assert [getattr(item, "tag", "stanza") for item in items] == [
        "stanza",
        namespaces.RESULT,
        namespaces.SM_REQUEST,
        "stanza",
    ]
    assert items[1].text == "k" and items[1].tail is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("bad", "condition"),
    [
        (b"<unknown/>", StreamCondition.UNSUPPORTED_STANZA_TYPE),
        (b"<message xmlns='jabber:client'/>", StreamCondition.INVALID_NAMESPACE),
        (b"<message xmlns=''/>", StreamCondition.INVALID_NAMESPACE),
        (
            b"<s:message xmlns:s='jabber:server' from='a.example' to='b.example'/>",
            StreamCondition.BAD_NAMESPACE_PREFIX,
        ),
        (
            b"<message:message xmlns:message='jabber:server' from='a.example' to='b.example'/>",
            StreamCondition.BAD_NAMESPACE_PREFIX,
        ),
        (b"<message from='a.example'/>", StreamCondition.IMPROPER_ADDRESSING),
        (b"<iq to='a.example'/>", StreamCondition.IMPROPER_ADDRESSING),
        (b"<iq from='a b' to='a.example'/>", StreamCondition.IMPROPER_ADDRESSING),
        (b"text", StreamCondition.BAD_FORMAT),
        (b"<!-- c -->", StreamCondition.RESTRICTED_XML),
        (b"<?p i?>", StreamCondition.RESTRICTED_XML),
        (b"<message><a><!-- c --></a></message>", StreamCondition.RESTRICTED_XML),
        (b"<!DOCTYPE a>", StreamCondition.RESTRICTED_XML),
        (b"<message><!DOCTYPE a []></message>", StreamCondition.RESTRICTED_XML),
    ],
)
def test_what_may_not_be_there_is_named(bad: bytes, condition: StreamCondition) -> None:
    """Traps 7 and 8."""
    first, last = outcome(GOOD + bad + GOOD)
    assert first[0] == "message"  # type: ignore[index]
    assert last is condition


def test_names_of_the_tree_are_judged_by_their_domain() -> None:
    """Trap 10: the resource is cut before the local part."""
    (stanza,) = opened().feed(b"<message from='a.example/x@b.example' to='c.example'/>")
    assert isinstance(stanza, Stanza)
    assert stanza.sender_domain == "a.example"


def test_stanza_in_many_reads_comes_once() -> None:
    for cut in range(1, len(GOOD)):
        parser = opened()
        items = parser.feed(b"\n" + GOOD + GOOD[:cut]) + parser.feed(GOOD[cut:] + b"\n\n" + GOOD)
        assert [type(item) for item in items] == [Stanza] * 3


FRAGMENTS = st.sampled_from(
    [
        GOOD,
        *(
            b"<message",
            b" from='a.example'",
            b" to='b.example'",
            b">",
            b"/>",
            b"</message>",
            b"<r ",
        ),
        *(b"xmlns='urn:xmpp:sm:3'", b"</stream:stream>", b"<stream:error>", b"</stream:error>"),
        *(
            b"&amp;",
            b"&x;",
            b"<![CDATA[",
            b"]]>",
            b"<!--",
            b"-->",
            b"<?x ?>",
            b"\n",
            b"text",
            b"\xc3",
        ),
        b"<q xmlns='a b'/>",
        *(b"<a>", b"</a>", b"<db:x/>", b"<y:z/>", b"<", b"'", b"\xa9", b"<presence ", b"<b/>" * 40),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAGMENTS, max_size=12), st.integers(1, 40))
def test_any_fragments_give_the_same_whole_and_split(parts: list[bytes], step: int) -> None:
    data = HEADER + b"".join(parts)
    parser = StreamParser(LIMITS, authenticated=True)
    pieces = [parser.feed(data[at : at + step]) for at in range(0, len(data), step)]
    split = brief([item for items in pieces for item in items])
    together = whole(data)
    # Which of two faults in one read is found first may differ; what is delivered may not.
    assert [x for x in split if not isinstance(x, StreamCondition)] == [
        x for x in together if not isinstance(x, StreamCondition)
    ]
    assert isinstance(split[-1], StreamCondition) == isinstance(together[-1], StreamCondition)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAGMENTS, max_size=12), st.integers(1, 40))
def test_long_breaks_anywhere_change_nothing(parts: list[bytes], step: int) -> None:
    data = HEADER + b"".join(parts)
    patient, hasty = (StreamParser(LIMITS, authenticated=True) for _ in range(2))
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    while pieces:
        piece = pieces.pop(0)
        mine, others = brief(patient.feed(piece)), brief(hasty.feed(piece))
        if mine != others:
            # The break has brought to light what could not become an element any more.
            assert mine == [StreamCondition.NOT_WELL_FORMED]
            others += brief([item for piece in pieces for item in hasty.feed(piece)])
            assert all(isinstance(item, StreamCondition) for item in others)
            return
        patient.shrink()


def test_a_parser_that_shrinks_has_no_document() -> None:
    parser = opened()
    for data in (GOOD, GOOD + b"\n", b"<r xmlns='urn:xmpp:sm:3'/>"):
        assert len(parser.feed(data)) == 1
        parser.shrink()
        assert not hasattr(parser, "_parser") and not parser.unfinished
    (stanza,) = parser.feed(GOOD.replace(b"<body>", b"<db:x/><body>"))
    assert isinstance(stanza, Stanza) and b"xmlns:db=" in stanza.data


def test_a_parser_does_not_shrink_where_something_has_begun() -> None:
    for cut in range(1, len(GOOD)):
        parser = opened()
        parser.feed(GOOD + GOOD[:cut])
        parser.shrink()
        assert [type(item) for item in parser.feed(GOOD[cut:])] == [Stanza]


@pytest.mark.parametrize("begun", [b"<!-- <r/>", b"<?x <r/>", b"<![CDATA[<r/>", b"<![C<r/>"])
def test_a_break_in_what_is_no_element_ends_the_stream(begun: bytes) -> None:
    parser = opened()
    parser.feed(GOOD + begun)
    parser.shrink()
    (error,) = parser.feed(GOOD)
    assert isinstance(error, RemoteProtocolError)
    assert error.condition is StreamCondition.NOT_WELL_FORMED


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_elements_or_an_error(data: bytes, opened_before: bool) -> None:
    parser = opened() if opened_before else StreamParser(LIMITS)
    for item in parser.feed(data)[:-1]:
        assert not isinstance(item, RemoteProtocolError)


@pytest.mark.parametrize("read", [b"", HEADER[:20], HEADER, HEADER + GOOD[:20]])
def test_a_parser_that_is_dropped_holds_and_reads_nothing(read: bytes) -> None:
    parser = StreamParser(LIMITS)
    parser.feed(read)
    parser.drop()
    assert parser.feed(GOOD) == [] and parser.unfinished == 0
    assert not any(hasattr(parser, name) for name in ("_parser", "_root", "_header_parser"))
    parser.shrink()
    parser.drop()
