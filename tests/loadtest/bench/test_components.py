"""A component answers pings, which gateways use to learn what a server has taken."""

from loadtest.bench.components import replies
from loadtest.bench.stanzas import encode


def test_a_ping_among_stanzas_is_answered() -> None:
    ping = (
        b"<iq type='get' id='p-1' from='a.example' to='load1.b.example'>"
        b"<ping xmlns='urn:xmpp:ping'/></iq>"
    )
    data = encode("a.example", "load1.b.example", 1) + ping + encode("a.example", "b.example", 2)
    assert replies(data) == [b"<iq type='result' from='load1.b.example' to='a.example' id='p-1'/>"]


def test_stanzas_are_not_answered() -> None:
    data = b"".join(encode("a.example", "b.example", number, mixed=True) for number in range(20))
    assert replies(data) == []
