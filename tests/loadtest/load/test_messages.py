"""What load servers and the sink write."""

from lxml import etree

from coordinator.config import Limits
from loadtest.load import messages
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.parser import MessageParser
from workers.xmpp.stanza import Stanza, bounce, with_delay

A, B = "user@a.example/load", "echo@sink.example"


def parsed(stanza: Stanza) -> Stanza:
    """As the other side's parser makes it."""
    (found,) = MessageParser(Limits(), authenticated=True).parse([stanza.data])
    assert isinstance(found, Stanza)
    return found


def test_every_stanza_is_what_the_core_reads_from_it() -> None:
    for stanza in (
        messages.message(
            A, B, "r.1.2", "it's <late> & more".replace("<", "&lt;").replace("&", "&amp;")
        ),
        messages.presence(A, B, "r.1.3"),
        messages.presence(A, B, "r.1.3", "unavailable"),
        messages.ping(A, B, "r.1.4"),
    ):
        seen = parsed(stanza)
        for field in (
            "name",
            "sender",
            "recipient",
            "id",
            "type",
            "sender_domain",
            "target_domain",
        ):
            assert getattr(seen, field) == getattr(stanza, field), field


def test_an_echo_has_the_same_content() -> None:
    original = parsed(messages.message(A, B, "r.1.2", "&lt;&amp;&gt;"))
    echo = messages.redirected(original, B, A, "r.1.2", "chat")
    assert etree.fromstring(echo.data)[0].text == "<&>"
    assert (echo.sender, echo.recipient, echo.target_domain) == (B, A, "a.example")


def test_an_echo_of_nothing_has_nothing() -> None:
    original = parsed(messages.presence(A, B, "r.1.2"))
    assert len(etree.fromstring(messages.redirected(original, B, A, "r.1.2", "").data)) == 0


def test_a_body_has_the_size_that_was_asked_for() -> None:
    assert [len(messages.body(size)) for size in (0, 1, 85, 100_000)] == [0, 1, 85, 100_000]


def test_the_condition_of_an_error_is_found() -> None:
    error = bounce(messages.ping(A, B, "1"), StanzaCondition.REMOTE_SERVER_TIMEOUT, "so late")
    assert error is not None
    assert messages.condition_of(parsed(error)) == "remote-server-timeout"
    assert messages.condition_of(messages.ping(A, B, "1")) == "undefined-condition"


def test_a_mark_of_lateness_is_seen() -> None:
    stanza = messages.message(A, B, "1", "x")
    assert not messages.is_marked(stanza)
    assert messages.is_marked(with_delay(stanza, "2026-01-01T00:00:00Z", "gw.example"))


def test_parts_of_addresses() -> None:
    assert messages.domain_part("a@b.example/c@d") == "b.example"
    assert messages.domain_part("b.example") == "b.example"
    assert messages.local_part("relay@sink.example/d1@x") == "relay"
    assert messages.local_part("sink.example/a@b") == ""
