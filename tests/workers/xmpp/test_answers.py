"""`<a/>` and `<r/>` (XEP-0198): the same with and without a parser, wherever they stand."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordinator.config import Limits
from tests.workers.xmpp.stream_parsing import GOOD, HEADER, LIMITS, brief
from workers.xmpp.component import ComponentParser
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.parsed import REQUEST, Judge
from workers.xmpp.parser import Answer, Element, MessageParser, StreamParser
from workers.xmpp.stanza import Stanza

SPELLINGS = [
    b"<a xmlns='urn:xmpp:sm:3' h='7'/>",
    b"<a h='4294967296' xmlns='urn:xmpp:sm:3'/>",
    b'<a xmlns="urn:xmpp:sm:3" h="0000000007"/>',
    b"<a h=\"7\" xmlns='urn:xmpp:sm:3'/>",
]
OTHERS = [
    b"<a xmlns='urn:xmpp:sm:3'/>",
    b"<a xmlns='urn:xmpp:sm:3' h=''/>",
    b"<a xmlns='urn:xmpp:sm:3' h='-1'/>",
    b"<a xmlns='urn:xmpp:sm:3' h='12345678901'/>",
    b"<a xmlns='urn:xmpp:sm:3' h='7\"/>",
    b"<a xmlns='urn:xmpp:sm:3' h='\xd9\xa7'/>",
    b"<a xmlns='urn:xmpp:sm:3' h='&#55;'/>",
    b"<a xmlns='urn:xmpp:sm:3' h='7' h='8'/>",
    b"<a xmlns='urn:xmpp:sm:3' h='7'></a>",
    b"<a xmlns='urn:xmpp:sm:3' h='7'><b/></a>",
    b"<x:a xmlns:x='urn:xmpp:sm:3' h='7'/>",
    b"<a xmlns='urn:xmpp:sm:2' h='7'/>",
    b"<a h='7'/>",
]
R = b"<r xmlns='urn:xmpp:sm:3'/>"
ASKED = [
    *(GOOD + R, GOOD + R.replace(b"'", b'"'), GOOD + b" " + R, R + R, GOOD + GOOD + R, R + GOOD),
    *(GOOD.replace(b"hi", b"<x></x>") + R, GOOD.replace(b"hi", b"<![CDATA[<a></message>]]>") + R),
    *(
        GOOD.replace(b"hi", R) + R,
        GOOD[:-1] + b" >" + R,
        GOOD + R[:-2] + b"></r>",
        GOOD + R + b"\n",
    ),
]
FRAGMENTS = [
    *SPELLINGS,
    *SPELLINGS,
    *OTHERS,
    *ASKED,
    *(R, R, GOOD, b"<message xmlns:b='c d'>", b"<message b='", b"'/>"),
    *(b"<message from='a.example' to='b.example'><body>", b"</body>", b"</message>", b"</", b">"),
    *(b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?p ", b"?>", b" ", b"\n", b"text", b"&amp;", b"<"),
    *(b"</stream:stream>", b"</stream:strea", b"\0", b"<!DOCTYPE"),
]


class _EveryAnswerParsed(Judge):
    requests = ()

    def answer(self, data: bytes) -> None:
        return None


class _Reference(StreamParser):
    make_judge = _EveryAnswerParsed


def without_shortcut(messages: list[bytes], *, authenticated: bool = True) -> list[Element]:
    parser = MessageParser(LIMITS)
    parser._judge = _EveryAnswerParsed(LIMITS)
    parser.authenticated = authenticated
    return parser.parse(messages)


def assert_alike(reads: list[bytes], shrinks: list[bool] | None = None) -> None:
    one, other = StreamParser(LIMITS, authenticated=True), _Reference(LIMITS, authenticated=True)
    for at, data in enumerate([HEADER, *reads]):
        assert brief(one.feed(data)) == brief(other.feed(data))
        assert one.unfinished == other.unfinished
        if shrinks is not None and shrinks[at % len(shrinks)]:
            one.shrink()
            other.shrink()


@pytest.mark.parametrize("data", SPELLINGS)
def test_known_spellings_need_no_parser(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StreamParser(LIMITS, authenticated=True)
    stream.feed(HEADER)
    stream.feed(data)
    monkeypatch.setattr(stream._body, "_parser", None)  # whoever feeds it fails
    monkeypatch.setattr("workers.xmpp.message_parser._PARSER", None)
    (answer,) = MessageParser(LIMITS, authenticated=True).parse([data])
    assert isinstance(answer, Answer)
    assert answer.h == data.replace(b'"', b"'").partition(b"h='")[2].partition(b"'")[0].decode()
    assert stream.feed(data) == [answer]


@pytest.mark.parametrize("authenticated", [True, False])
@pytest.mark.parametrize("data", SPELLINGS + OTHERS)
def test_a_message_gives_the_same_as_by_the_parser(data: bytes, authenticated: bool) -> None:
    for message in (data, b" " + data, data + b"\n", data + data, b"\xef\xbb\xbf" + data):
        here = MessageParser(LIMITS, authenticated).parse([message])
        assert brief(here) == brief(without_shortcut([message], authenticated=authenticated))


@pytest.mark.parametrize("authenticated", [True, False])
def test_requests_among_messages_keep_their_places(authenticated: bool) -> None:
    stanza = GOOD.replace(b"<message ", b"<message xmlns='jabber:server' ")
    other = R.replace(b"'", b'"')
    for messages in (
        *([R], [R, R], [stanza, R], [R, stanza], [stanza, other, stanza, R], [SPELLINGS[0], R]),
        *([stanza, b" " + R, R], [stanza, R, b"<!-- -->", R], [R, b"<x/>", R], [b"", R, R]),
    ):
        here = brief(MessageParser(LIMITS, authenticated).parse(messages))
        assert here == brief(without_shortcut(messages, authenticated=authenticated))


def test_a_request_behind_a_stanza_needs_no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StreamParser(LIMITS, authenticated=True)
    stream.feed(HEADER)
    fed: list[bytes] = []
    inner = stream._body._parser

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def feed(self, data: bytes) -> None:
            fed.append(data)
            inner.feed(data)

    monkeypatch.setattr(stream._body, "_parser", Watched())
    stanza, request = stream.feed(GOOD + R)
    assert isinstance(stanza, Stanza) and request is REQUEST and fed == [GOOD]


def test_a_stranger_has_no_more_of_them_than_of_others() -> None:
    stream, message = StreamParser(Limits()), MessageParser(Limits())
    stream.feed(HEADER)
    for take in (stream.feed, lambda data: message.parse([data])):
        answers = 0
        while not isinstance((items := take(SPELLINGS[0]))[-1], RemoteProtocolError):
            answers += len(items)
        assert items[-1].condition is StreamCondition.POLICY_VIOLATION
        assert 100 < answers < 150


def test_a_component_stream_knows_none() -> None:
    parser = ComponentParser(LIMITS, authenticated=True)
    header = b"<stream:stream xmlns='jabber:component:accept' "
    parser.feed(header + b"xmlns:stream='http://etherx.jabber.org/streams' id='1'>")
    (error,) = parser.feed(SPELLINGS[0])
    assert isinstance(error, RemoteProtocolError)
    assert error.condition is StreamCondition.UNSUPPORTED_STANZA_TYPE


@pytest.mark.parametrize(
    "before",
    [
        *(
            b"<!--",
            b"<![CDATA[",
            b"<?p ",
            b"<",
            b"</",
            b"<message b='",
            b"<message ",
            b"text",
            b"&",
        ),
        *(GOOD[:-1], GOOD[:-9], GOOD + b"<!-- >", GOOD + b"<![CDATA[</message>", GOOD + b"\n"),
        *(b"</stream:strea", b"<message xmlns:b='c d'>", GOOD + b"<?p ?", GOOD + b"<a b='>"),
    ],
)
def test_it_is_no_answer_inside_of_anything(before: bytes) -> None:
    for answer in SPELLINGS:
        assert_alike([before, answer, answer])
        assert_alike([answer, before, answer, answer])
        assert_alike([answer, answer + before, answer, b"-->", answer])


@pytest.mark.parametrize("body", [b"".join(SPELLINGS), GOOD.join(SPELLINGS), b"\n".join(SPELLINGS)])
def test_wherever_it_is_cut(body: bytes) -> None:
    for at in range(len(body)):
        assert_alike([SPELLINGS[0], body[:at], body[at:], SPELLINGS[1], body])
    assert_alike([body[at : at + 1] for at in range(len(body))])


@pytest.mark.parametrize(
    "before",
    [
        *(b"<!--</message>", b"<![CDATA[</message>", b"<?p </message>", b"<message a='</message>"),
        *(b"<message><body>", b"<message><a></message>", GOOD + b"<!--</message>", GOOD[:-1]),
        *(GOOD[1:], GOOD[9:], GOOD + GOOD, GOOD.replace(b"hi", b"<!--</message>"), b"</message>"),
    ],
)
def test_it_is_no_request_inside_of_anything(before: bytes) -> None:
    for first in ([], [b"<"], [b"<mess"], [b"<message><b"], [GOOD], [GOOD + b"<!--"]):
        assert_alike([*first, before + R, R, b"-->", GOOD + R])
        assert_alike([*first, GOOD + before + R, R, b"</message>" + R, GOOD + R])


@given(
    st.lists(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=3).map(b"".join)),
    st.lists(st.booleans(), min_size=1, max_size=5),
)
@example([SPELLINGS[0], GOOD + b"<![CDATA[ </message>", SPELLINGS[0]], [False])
@settings(max_examples=400, deadline=None)
def test_any_reads(reads: list[bytes], shrinks: list[bool]) -> None:
    assert_alike(reads, shrinks)


@given(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8).map(b"".join),
    st.lists(st.integers(0, 400), max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_any_cuts(body: bytes, cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    assert_alike([body[a:b] for a, b in pairwise(ends) if a < b])
