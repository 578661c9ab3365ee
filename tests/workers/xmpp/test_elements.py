"""What is written reads back as what was meant."""

import pytest
from lxml import etree

from workers.xmpp import elements, namespaces
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.framing import StreamFraming


def test_features_read_back() -> None:
    written = StreamFraming().features(
        [
            elements.mechanisms("EXTERNAL"),
            elements.SM_FEATURE,
            elements.BIDI_FEATURE,
            elements.DIALBACK_FEATURE,
            elements.STARTTLS_FEATURE,
            elements.limits(262144, 300),
        ]
    )
    assert elements.parse_features(etree.fromstring(written)) == elements.Features(
        frozenset({"EXTERNAL"}), True, True, True, True, 262144, 300
    )


def test_absurd_limits_count_as_none() -> None:
    written = StreamFraming().features([elements.limits(10**30)])
    assert elements.parse_features(etree.fromstring(written)).max_bytes == 0


def test_dialback_elements() -> None:
    asked = etree.fromstring(elements.db_verify("a.example", "b.example", "<id>", key="k&"))
    assert (asked.tag, asked.get("id"), asked.text) == (namespaces.VERIFY, "<id>", "k&")
    answered = etree.fromstring(
        elements.db_result("a.example", "b.example", type="error", error="forbidden")
    )
    assert answered.tag == namespaces.RESULT and answered[0].get("type") == "auth"
    assert etree.fromstring(elements.db_result("a", "b", type="valid")).get("type") == "valid"


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (b"<reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>", (StreamCondition.RESET, "")),
        (b"<odd xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>",
         (StreamCondition.UNDEFINED_CONDITION, "odd")),
        (b"", (StreamCondition.UNDEFINED_CONDITION, "")),
    ],
)  # fmt: skip
def test_stream_errors_are_read(inner: bytes, expected: tuple[StreamCondition, str]) -> None:
    error = etree.fromstring(b"<error xmlns='http://etherx.jabber.org/streams'>%s</error>" % inner)
    assert elements.parse_stream_error(error) == expected


def test_sasl_failures_are_read() -> None:
    assert elements.parse_sasl_failure(
        etree.fromstring(elements.failure("not-authorized", "why"))
    ) == ("not-authorized (why)")


@pytest.mark.parametrize(
    "data",
    [
        elements.auth("EXTERNAL", "="),
        elements.bidi(10_000),
        elements.sm_answer(3),
        elements.sm_failed("item-not-found"),
        elements.handled_count_too_high(5, 3),
        elements.ping("a.example", "b.example", "'"),
    ],
)
def test_every_element_stands_alone(data: bytes) -> None:
    assert str(etree.fromstring(data).tag).startswith("{")


def test_peers_domains_are_normalised_or_improper() -> None:
    assert elements.peer_domain("Montague.Example") == "montague.example"
    for wrong in (None, "", "a..b", "a b"):
        with pytest.raises(RemoteProtocolError, match="improper-addressing"):
            elements.peer_domain(wrong)
