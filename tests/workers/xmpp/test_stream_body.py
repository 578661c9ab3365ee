"""What follows a header: each child once, as it is complete, and nothing kept of it."""

import pytest
from lxml import etree

from coordinator.config import Limits
from tests.workers.xmpp.stream_parsing import GOOD, LIMITS, brief, odd, opened, outcome
from workers.xmpp import namespaces
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.parsed import REQUEST, Element, Judge
from workers.xmpp.parser import StreamParser
from workers.xmpp.stanza import Stanza
from workers.xmpp.stream_body import StreamBody


def test_prefix_of_the_header_is_declared_where_it_is_used() -> None:
    """Trap 1: serialised before removal, so no invented prefixes either."""
    used = GOOD.replace(b"<body>hi</body>", b"<db:x a='stream: no'/>")
    first, second = opened().feed(used + GOOD)
    assert isinstance(first, Stanza) and isinstance(second, Stanza)
    assert etree.fromstring(first.data)[0].tag == f"{{{namespaces.DIALBACK}}}x"
    assert b"ns0" not in first.data and b"xmlns:" not in second.data


def test_prefix_redeclared_by_the_stanza_stays_its_own() -> None:
    data = GOOD.replace(b"<message ", b"<message xmlns:db='other' ").replace(
        b"<body>hi</body>", b"<db:x/>"
    )
    (stanza,) = opened().feed(data)
    assert isinstance(stanza, Stanza)
    assert etree.fromstring(stanza.data)[0].tag == "{other}x"


def test_forbidden_declaration_is_refused() -> None:
    assert opened().feed(GOOD.replace(b"<body>", b"<body xmlns:x=''>"))[-1].condition is (  # type: ignore[union-attr]
        StreamCondition.NOT_WELL_FORMED
    )


def test_relative_namespace_names_are_no_error() -> None:
    """Trap 2: warnings land in the same log, and the log stops at 100 of them."""
    parser = opened()
    card = GOOD.replace(b"<body>hi</body>", b"<vCard xmlns='vcard-temp'/>")
    for _ in range(150):
        assert isinstance(parser.feed(card)[0], Stanza)
    assert isinstance(parser.feed(GOOD.replace(b"hi", b"<x:a/>"))[-1], RemoteProtocolError)


def test_namespace_name_that_is_no_uri_is_let_through() -> None:
    """Namespaces in XML 1.0 §7; a user must not be able to end the stream of all."""
    items = outcome(GOOD + odd(1) + GOOD)
    assert [item[0] for item in items] == ["message"] * 3  # type: ignore[index]
    assert b'<x xmlns="a b"/>' in items[1][1]  # type: ignore[index]


@pytest.mark.parametrize("end", [b"", b" \n", b"\n<", b"<iq ", b"<r xmlns='urn:xmpp:sm:3'/>"])
@pytest.mark.parametrize(
    "inner", [b"<body>hi</body>", b"", b"<db:x/>", b"<body>\xc3\xa9 &gt;</body>", b"&gt;"]
)
def test_a_stanza_alone_is_read_as_among_others(inner: bytes, end: bytes) -> None:
    stanza = GOOD.replace(b"<body>hi</body>", inner)
    alone = opened().feed(stanza + end)
    _, among = opened().feed(GOOD + stanza)
    assert isinstance(alone[0], Stanza) and isinstance(among, Stanza)
    assert alone[0].data == among.data


def test_text_behind_a_stanza_alone_is_refused() -> None:
    stanza, error = opened().feed(GOOD + b"text &gt;\n")
    assert isinstance(stanza, Stanza)
    assert isinstance(error, RemoteProtocolError)
    assert error.condition is StreamCondition.BAD_FORMAT


@pytest.mark.parametrize("bad", [b"<x:a/>", b"<y xmlns:c='u' xmlns:d='u' c:a='' d:a=''/>"])
@pytest.mark.parametrize("count", [1, 99, 100, 150])
def test_real_errors_are_seen_behind_odd_names(bad: bytes, count: int) -> None:
    """libxml2 logs 100 errors and no more."""
    limits = Limits(elements=1000)
    for body in (odd(count, bad), odd(count) + GOOD.replace(b"hi", bad), odd(count) + odd(1, bad)):
        for step in (len(body), 999, 7):
            parser = opened(limits)
            pieces = [body[at : at + step] for at in range(0, len(body), step)]
            items = [item for piece in pieces for item in parser.feed(piece)]
            assert brief(items)[-1] is StreamCondition.NOT_WELL_FORMED
            assert len(items) == body.count(b"</message>")


def test_log_starts_anew_after_odd_names() -> None:
    parser = opened()
    first = parser._body._parser
    parser.feed(odd(1)[:-1])
    assert parser._body._parser is first
    parser.feed(b">" + GOOD)
    assert parser._body._parser is not first and not parser._body._suspect
    assert len(parser.feed(GOOD * 3 + b"<r xmlns='urn:xmpp:sm:3'/></stream:stream>")) == 5


def test_what_has_begun_behind_odd_names_is_not_forgotten() -> None:
    parser = opened()
    (stanza,) = parser.feed(odd(1) + b"<!--</message>")
    assert isinstance(stanza, Stanza) and parser.feed(GOOD) == []


def test_whitespace_keepalives_do_not_pile_up() -> None:
    parser = opened()
    for _ in range(20_000):
        assert parser.feed(b"\n") == []
    assert isinstance(parser.feed(GOOD)[0], Stanza)
    assert parser._body._root.text is None


def test_a_nul_in_cdata_does_not_stall() -> None:
    """libxml2 reads no further and says nothing."""
    data = GOOD + GOOD.replace(b"hi", b"<![CDATA[\0]]>") + GOOD
    stanza, error = outcome(data)
    assert stanza[0] == "message" and error is StreamCondition.NOT_WELL_FORMED


REQUESTED = b"<r xmlns='urn:xmpp:sm:3'/>"
PREFIXES = {"db": namespaces.DIALBACK, "stream": namespaces.STREAM}


def body_of(prefixes: dict[str, str] = PREFIXES, default: str = namespaces.SERVER) -> StreamBody:
    judge = Judge(LIMITS)
    judge.set_authenticated(True)
    return StreamBody(judge, StreamParser.kinds, prefixes, default)


def read(body: StreamBody, data: bytes) -> list[Element]:
    out: list[Element] = []
    body.read(data, out)
    return out


def condition_of(body: StreamBody, data: bytes) -> tuple[list[Element], StreamCondition]:
    """What comes out before the error, and the error."""
    out: list[Element] = []
    with pytest.raises(RemoteProtocolError) as caught:
        body.read(data, out)
    return out, caught.value.condition


def test_children_come_once_and_the_tree_holds_none_that_is_complete() -> None:
    for cut in range(len(GOOD)):
        body = body_of()
        items = read(body, GOOD + b"\n" + REQUESTED + GOOD[:cut])
        assert [type(item) for item in items[::2]] == [Stanza] and len(items) == 2
        assert len(body._root) == (cut > 0 and body.is_unfinished) and body.taken == 2
        assert [type(item) for item in read(body, GOOD[cut:] + GOOD)] == [Stanza] * 2
        assert len(body._root) == 0 and not body.is_unfinished and body.taken == 4


def test_what_is_complete_before_an_error_comes_out() -> None:
    for bad, condition in (
        (b"</message>", StreamCondition.NOT_WELL_FORMED),
        (b"<message><x:a/></message>", StreamCondition.NOT_WELL_FORMED),
        (b"text" + GOOD, StreamCondition.BAD_FORMAT),
        (b"<unknown/>", StreamCondition.UNSUPPORTED_STANZA_TYPE),
        (b"<!-- -->", StreamCondition.RESTRICTED_XML),
    ):
        items, found = condition_of(body_of(), GOOD + GOOD + bad + GOOD)
        assert [type(item) for item in items] == [Stanza] * 2 and found is condition


def test_the_root_has_a_name_that_nobody_is_told() -> None:
    for data in (GOOD, GOOD + GOOD, GOOD[:-1], b"</r>", b"</stream:stream>", b"<x:a/>"):
        body = body_of()
        secret = body._root.tag.rpartition("}")[2]
        items: list[Element] = []
        try:
            body.read(data, items)
        except RemoteProtocolError as error:
            assert secret not in str(error)
        assert secret not in repr(brief(items))


def test_it_is_known_whether_the_last_byte_ended_a_child() -> None:
    body = body_of()
    assert body.is_between
    alone = b"<presence from='a.example' to='b.example'/>"
    for data, is_between in ((alone, True), (b"\n", False), (alone[:9], False), (alone[9:], True)):
        read(body, data)
        assert body.is_between is is_between


def test_it_is_counted_which_child_has_begun() -> None:
    body = body_of()
    assert (body.begun(b""), body.begun(b" "), body.begun(b"</stre")) == (0, 0, 1)
    read(body, GOOD + GOOD)
    assert (body.begun(b""), body.begun(b"<")) == (0, 3)
    read(body, b" \n")
    assert body.begun(b"") == 0
    read(body, GOOD[:30])
    assert body.begun(b"") == body.begun(b" ") == 3


def test_a_body_that_has_shrunk_goes_on_in_a_new_document() -> None:
    body = body_of()
    for end in (b"", b" \n"):
        read(body, GOOD + end)
        assert body.shrink()
        assert not hasattr(body, "_parser") and not hasattr(body, "_root")
        body.go_on()
        (stanza,) = read(body, GOOD.replace(b"<body>", b"<db:x/><body>"))
        assert isinstance(stanza, Stanza) and b"xmlns:db=" in stanza.data
    assert body.taken == 4


@pytest.mark.parametrize("begun", [GOOD[:20], b"<", b"<mess", b"text>x", b"&amp", odd(1)])
def test_what_has_begun_or_left_odd_names_in_the_log_keeps_its_document(begun: bytes) -> None:
    body = body_of()
    out: list[Element] = []
    body.read(GOOD + begun[:-1], out)
    body.read(begun[-1:], out)
    assert not body.shrink() and hasattr(body, "_parser")


@pytest.mark.parametrize("begun", [b"<!-- <r/>", b"<![CDATA[</message>", b"<?x <r/>"])
def test_what_can_become_no_child_is_told_when_it_goes_on(begun: bytes) -> None:
    body = body_of()
    read(body, GOOD + begun)
    assert body.shrink()
    with pytest.raises(RemoteProtocolError) as caught:
        body.go_on()
    assert caught.value.condition is StreamCondition.NOT_WELL_FORMED


@pytest.mark.parametrize(
    ("data", "may_end"),
    [
        (b"", True),
        (GOOD, True),
        (GOOD + b" \t\r\n", True),
        (b"text", False),
        (GOOD + b"text", False),
    ],
)
def test_a_stream_may_end_where_nothing_has_begun(data: bytes, may_end: bool) -> None:
    body = body_of()
    read(body, data)
    assert body.may_end() is may_end


@pytest.mark.parametrize("data", [b"<", GOOD[:40], GOOD + b"<message>", b"<!--", b"<?x "])
def test_a_stream_may_not_end_in_what_has_begun(data: bytes) -> None:
    body = body_of()
    read(body, data)
    try:
        assert not body.may_end()
    except RemoteProtocolError as error:
        assert error.condition is StreamCondition.NOT_WELL_FORMED


def test_a_question_behind_one_stanza_is_answered_in_its_place() -> None:
    for before in (b"", b"\n", GOOD, GOOD[:50], odd(1)):
        body = body_of()
        items = read(body, before)
        body.read_request((GOOD[50:] if before == GOOD[:50] else GOOD) + REQUESTED, items)
        assert [type(item) for item in items[:-1]] == [Stanza] * (len(items) - 1)
        assert items[-1] is REQUEST or getattr(items[-1], "tag", "") == namespaces.SM_REQUEST
        assert body.taken == len(items) and not body.is_unfinished
        assert [type(item) for item in read(body, GOOD)] == [Stanza]


@pytest.mark.parametrize("hidden", [b"<!--</message>", b"<![CDATA[</message>", b"<?x </message>"])
def test_no_question_is_found_where_something_else_has_begun(hidden: bytes) -> None:
    body = body_of()
    out: list[Element] = []
    with pytest.raises(RemoteProtocolError):
        body.read_request(GOOD + hidden + REQUESTED, out)
        body.read(b"-->?>]]>" + GOOD, out)
    assert len(out) == 1 and isinstance(out[0], Stanza)


def test_prefixes_of_the_header_are_bounded() -> None:
    """They are declared on each stanza that uses them."""
    for prefixes in (
        {f"p{number}": "u" for number in range(17)},
        {"p": "u" * 1024},
        {f"p{number}": "u" * 100 for number in range(10)},
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            body_of(prefixes)
        assert caught.value.condition is StreamCondition.POLICY_VIOLATION
    body = body_of({f"p{number}": f"u{number}" for number in range(16)})
    (stanza,) = read(body, GOOD.replace(b"hi", b"<p7:x/>"))
    assert isinstance(stanza, Stanza) and stanza.data.count(b"xmlns:") == 1
    assert etree.fromstring(stanza.data)[0][0].tag == "{u7}x"


def test_values_of_the_header_cannot_break_out_of_the_made_up_root() -> None:
    uri = "u'/&gt;&lt;x/"
    body = body_of({"p": uri})
    (stanza,) = read(body, GOOD.replace(b"hi", b"<p:x/>"))
    assert isinstance(stanza, Stanza)
    assert etree.fromstring(stanza.data)[0][0].tag == f"{{{uri}}}x"


def test_without_a_default_namespace_each_stanza_brings_its_own() -> None:
    body = body_of(default="")
    (stanza,) = read(body, GOOD.replace(b"<message ", b"<message xmlns='jabber:server' "))
    assert isinstance(stanza, Stanza)
    assert condition_of(body, GOOD) == ([], StreamCondition.INVALID_NAMESPACE)
