"""TCP legs: what one stanza, one header and one stranger may cost."""

import pytest

from tests.workers.xmpp.stream_parsing import (
    GOOD,
    HEADER,
    LIMITS,
    brief,
    bytewise,
    opened,
    outcome,
    whole,
)
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.parser import StreamParser
from workers.xmpp.stanza import Stanza

REFUSED = [
    ("message", reason) for reason in ("nested too deeply", "too many elements", "stanza too large")
]


@pytest.mark.parametrize(
    ("inner", "accepted"),
    [
        (b"<a>" * 15 + b"</a>" * 15, True),
        (b"<a>" * 16 + b"</a>" * 16, False),
        (b"<a/>" * 99, True),
        (b"<a/>" * 100, False),
        (b"<a/>" * 15 + b"<b><c/></b>" * 15, True),
        (b"<a>" * 254 + b"</a>" * 254, False),
        (b"<a>" * 1000 + b"</a>" * 1000, False),
        (b"<a/>" * 400 + b"x" * 4000, False),
    ],
)
def test_depth_and_elements_are_capped(inner: bytes, accepted: bool) -> None:
    good, result, after = outcome(GOOD + GOOD.replace(b"<body>hi</body>", inner) + GOOD)
    assert good == after
    assert (result not in REFUSED) is accepted


def test_size_is_capped_whole_and_in_pieces() -> None:
    empty = len(GOOD) - 2
    assert isinstance(opened().feed(GOOD.replace(b"hi", b"x" * (4096 - empty)))[0], Stanza)
    for padding, expected in (
        (4097 - empty, ("message", "stanza too large")),
        (100_000, StreamCondition.POLICY_VIOLATION),
    ):
        parser, data = opened(), GOOD.replace(b"hi", b"x" * padding)
        items = [item for at in range(0, len(data), 64) for item in parser.feed(data[at : at + 64])]
        assert brief(items) == [expected]


def test_apostrophes_may_come_escaped() -> None:
    parser, data = opened(), GOOD.replace(b"hi", b"&apos;" * 3900)
    items = [item for at in range(0, len(data), 64) for item in parser.feed(data[at : at + 64])]
    assert [type(item) for item in items] == [Stanza]


def test_elements_of_an_unfinished_stanza_are_capped() -> None:
    for authenticated, count in ((True, 2100), (False, 140)):
        parser = opened()
        parser.authenticated = authenticated
        assert isinstance(parser.feed(b"<message>" + b"<a/>" * count)[-1], RemoteProtocolError)


def test_what_a_stranger_sends_is_limited_in_sum() -> None:
    request = b"<r xmlns='urn:xmpp:sm:3'/>"
    for data, count in ((request, 128), (b" " * 1000, 8)):
        parser = StreamParser(LIMITS)
        items = parser.feed(HEADER)
        items += [item for _ in range(count) for item in parser.feed(data)]
        assert isinstance(items[-1], RemoteProtocolError)
        assert items[-1].condition is StreamCondition.POLICY_VIOLATION
        parser = opened()
        assert not any(isinstance(i, RemoteProtocolError) for i in parser.feed(data * count))


def test_byte_order_mark_before_the_header_is_refused() -> None:
    """RFC 6120 §11.6."""
    for data in (b"\xef\xbb\xbf" + HEADER, b" \n\xef\xbb\xbf" + HEADER):
        assert whole(data) == bytewise(data) == [StreamCondition.NOT_WELL_FORMED]


def test_ampersand_that_never_ends_is_capped() -> None:
    """Trap 3: `&` without `;` stalls libxml2 silently."""
    parser = opened()
    assert parser.feed(b"<message>&" + b"a" * 1000) == []
    items = [item for _ in range(40) for item in parser.feed(b"a" * 1000)]
    assert isinstance(items[-1], RemoteProtocolError)


def test_caps_are_tight_before_authentication() -> None:
    parser = StreamParser(LIMITS)
    (_, error) = parser.feed(HEADER + GOOD.replace(b"hi", b"x" * 1100))
    assert isinstance(error, RemoteProtocolError)
    parser = StreamParser(LIMITS)
    parser.feed(HEADER)
    parser.authenticated = True
    assert isinstance(parser.feed(GOOD.replace(b"hi", b"x" * 1100))[0], Stanza)


def test_it_is_known_which_element_is_unfinished() -> None:
    parser = StreamParser(LIMITS, authenticated=True)
    assert parser.unfinished == 0
    seen = []
    for piece in (
        *(HEADER[:20], HEADER[20:], b" ", b"\n" * 40),
        *(b"<mess", GOOD[5:40], GOOD[40:], b" \n ", b"x", b"&"),
    ):
        parser.feed(piece)
        seen.append(parser.unfinished)
    assert seen == [0, 0, 0, 0, 1, 1, 0, 0, 2, 0]  # the last: text is an error
    parser = opened()
    for piece in (GOOD + GOOD + b"<", b"message>", b"<a>", b"</a></mess"):
        parser.feed(piece)
        assert parser.unfinished == 3
    parser = opened()
    parser.feed(b"</stream:st")
    assert parser.unfinished == 1
    parser.feed(b"ream>")
    assert parser.unfinished == 0
