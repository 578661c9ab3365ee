"""What a stranger may make libxml2 learn."""

import itertools

import pytest

from coordinator.config import Limits
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.message_parser import MessageParser
from workers.xmpp.names import names_held
from workers.xmpp.stream_parser import StreamParser
from workers.xmpp.vocabulary import Vocabulary

OPEN = b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing-server' from='a.example' to='b.example'"
HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback'"
    b" xmlns:stream='http://etherx.jabber.org/streams' from='a.example' to='b.example'"
    b" xml:lang='en' version='1.0'>"
)
FEATURES = (
    b"<stream:features xmlns:stream='http://etherx.jabber.org/streams'>"
    b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
    b"<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism>"
    b"</mechanisms><dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"
    b"<bidi xmlns='urn:xmpp:features:bidi'/><sm xmlns='urn:xmpp:sm:3'><optional/></sm>"
    b"<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>8192</max-bytes></limits>"
    b"</stream:features>"
)
QUESTION = (
    b"<db:result xmlns:db='jabber:server:dialback' from='a.example' to='b.example' id='1'>"
    b"6b65791d</db:result>"
)
REFUSAL = (
    b"<db:result xmlns:db='jabber:server:dialback' from='a.example' to='b.example' type='error'>"
    b"<error type='cancel'><remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
    b"<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>a &amp; b</text></error></db:result>"
)
numbers = itertools.count()


def condition(items: list) -> StreamCondition | None:
    return items[-1].condition if items and isinstance(items[-1], RemoteProtocolError) else None


@pytest.mark.parametrize("step", [1, 7, 100, 10000])
def test_a_handshake_that_we_know_has_no_bounds_here(step: int) -> None:
    vocabulary = Vocabulary()
    data = HEADER + FEATURES + b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>" + HEADER
    data += FEATURES + QUESTION * 100 + REFUSAL * 20
    for at in range(0, len(data), step):
        vocabulary.take(data[at : at + step])


@pytest.mark.parametrize("step", [1, 1000])
def test_unknown_features_have_room(step: int) -> None:
    vocabulary = Vocabulary()
    data = b"".join(b"<f%d xmlns='urn:f:%d'><x/>text</f%d>" % (n, n, n) for n in range(15))
    for at in range(0, len(data), step):
        vocabulary.take(data[at : at + step])
    with pytest.raises(RemoteProtocolError):
        vocabulary.take(data)


@pytest.mark.parametrize(
    "pattern",
    [
        " n%d=''",
        " xmlns='u:%d'",
        " xmlns:n%d='jabber:server'",
        " n%d:from=''",
        "<n%d/>",
        "<to%d/>",
        "<n%d:result/>",
        "</n%d>",
        "<?n%d?>",
        "<![n%d",
        "&n%d;",
        "&amp%d;",
    ],
)
@pytest.mark.parametrize("step", [1, 64, 10000])
def test_each_place_of_a_name_counts(pattern: str, step: int) -> None:
    """However it is cut: what a name that is known begins or ends with is not that name."""
    vocabulary = Vocabulary()
    data = "".join(pattern % n for n in range(70)).encode()
    with pytest.raises(RemoteProtocolError) as caught:
        for at in range(0, len(data), step):
            vocabulary.take(data[at : at + step])
    assert caught.value.condition is StreamCondition.POLICY_VIOLATION


def fresh(pattern: str, count: int) -> bytes:
    return "".join(pattern.replace("#", f"v{next(numbers)}") for _ in range(count)).encode()


@pytest.mark.parametrize("pattern", [" #=''", " xmlns:#='#'", " #:b=''"])
@pytest.mark.parametrize("count", [63, 700])
def test_a_stranger_leaves_few_names_behind(pattern: str, count: int) -> None:
    """Names stay for ever, and whoever connects a thousand times could bring a million."""
    for number in range(3):
        before = names_held()
        assert before is not None
        attributes = fresh(pattern, count)
        message = OPEN + attributes + b"/>"
        header = HEADER[:-1] + attributes + b">"
        whole = MessageParser(Limits()).parse([message])
        piecewise = StreamParser(Limits())
        items = [
            item for at in range(0, len(header), 99) for item in piecewise.feed(header[at:][:99])
        ]
        if count > 64:
            assert condition(whole) is condition(items) is StreamCondition.POLICY_VIOLATION
        after = names_held()
        # Two parsers, up to two names an attribute; the names of a handshake are learnt once.
        assert after is not None and (number == 0 or after - before <= 4 * 64)


def test_nobody_is_bounded_once_he_is_known() -> None:
    stanza = b"<message xmlns='jabber:server' from='a@a.example' to='b@b.example'>%s</message>"
    parser = MessageParser(Limits())
    parser.authenticated = True
    assert condition(parser.parse([stanza % fresh("<#/>", 500)])) is None
    parser = MessageParser(Limits())
    assert (
        condition(parser.parse([stanza % fresh("<#/>", 500)])) is StreamCondition.POLICY_VIOLATION
    )


def test_a_document_type_is_called_by_its_name() -> None:
    entities = b"".join(b"<!ENTITY e%d 'x'>" % number for number in range(80))
    data = b"<!DOCTYPE a [" + entities + b"]><a/>"
    assert condition(MessageParser(Limits()).parse([data])) is StreamCondition.RESTRICTED_XML
    assert condition(StreamParser(Limits()).feed(data)) is StreamCondition.RESTRICTED_XML
