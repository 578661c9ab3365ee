"""Bounces and delays: what leaves is well-formed, whatever came in."""

import pytest
from lxml import etree

from coordinator.config import Limits
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.namespaces import DELAY, STANZA_ERRORS
from workers.xmpp.parser import MessageParser
from workers.xmpp.stanza import Stanza, bounce, why_not_bounced, with_delay


def stanza(name: str = "message", attributes: str = "", inner: str = "<body>x</body>") -> Stanza:
    data = (
        f"<{name} xmlns='jabber:server' from='juliet@a.example/&apos;&gt;'"
        f" to='romeo@b.example' {attributes}>{inner}</{name}>"
    )
    (item,) = MessageParser(Limits(), authenticated=True).parse([data.encode()])
    assert isinstance(item, Stanza)
    return item


def test_bounce_swaps_addresses_and_keeps_the_id() -> None:
    answer = bounce(stanza("iq", "id='&lt;1' type='get'"), StanzaCondition.REMOTE_SERVER_TIMEOUT)
    assert answer is not None
    root = etree.fromstring(answer.data)
    assert dict(root.attrib) == {
        "from": "romeo@b.example",
        "to": "juliet@a.example/'>",
        "id": "<1",
        "type": "error",
    }
    assert root[0].get("type") == "wait" and len(root[0]) == 1
    assert (answer.sender_domain, answer.target_domain) == ("b.example", "a.example")
    assert why_not_bounced(answer) == "type-error"


def test_bounce_carries_its_text_escaped() -> None:
    answer = bounce(stanza(), StanzaCondition.POLICY_VIOLATION, "a <b> & \x00")
    assert answer is not None
    text = etree.fromstring(answer.data).findtext(f".//{{{STANZA_ERRORS}}}text")
    assert text == "a <b> & \ufffd" and answer.id is None


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (stanza("message", "type='error'"), "type-error"),
        (stanza("iq", "type='result' id='1'"), "iq-result"),
    ],
)
def test_errors_and_results_are_never_answered(refused: Stanza, reason: str) -> None:
    assert bounce(refused, StanzaCondition.SERVICE_UNAVAILABLE) is None
    assert why_not_bounced(refused) == reason


@pytest.mark.parametrize("inner", ["", "<body>x</body>"])
def test_delay_is_added_once(inner: str) -> None:
    late = with_delay(stanza("presence", inner=inner), "2026-01-01T00:00:00Z", "a.example")
    late = with_delay(late, "2026-01-02T00:00:00Z", "a.example")
    marks = etree.fromstring(late.data).findall(f"{{{DELAY}}}delay")
    assert [mark.get("stamp") for mark in marks] == ["2026-01-01T00:00:00Z"]


def test_requests_are_neither_marked_nor_mistaken() -> None:
    request = stanza("iq", "type='set' id='1'")
    assert with_delay(request, "2026-01-01T00:00:00Z", "a.example") is request
    assert request.is_request and not stanza().is_request


def test_delay_is_found_beside_a_namespace_name_that_is_no_uri() -> None:
    marked = with_delay(stanza(inner="<x xmlns='a b'/>"), "2026-01-01T00:00:00Z", "gateway.example")
    assert DELAY.encode() in marked.data
    assert with_delay(marked, "2026-01-02T00:00:00Z", "gateway.example") is marked
