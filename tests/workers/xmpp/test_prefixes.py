"""What a header's prefixes cost, and which stanzas they are declared on."""

import pytest

from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.prefixes import declarations, declared, used_in

TWO = declarations({"db": "jabber:server:dialback", "x": "urn:x"})
DB, X = TWO


def test_a_declaration_is_ready_to_be_written_behind_a_name() -> None:
    assert TWO == [(b"db:", b"xmlns:db='jabber:server:dialback' "), (b"x:", b"xmlns:x='urn:x' ")]
    assert declarations({}) == []


def test_a_namespace_name_is_escaped() -> None:
    ((_, declaration),) = declarations({"x": "urn:'<&"})
    assert declaration == b"xmlns:x='urn:&apos;&lt;&amp;' "


@pytest.mark.parametrize(
    "prefixes",
    [{f"p{n}": "urn:x" for n in range(17)}, {"x": "u" * 1024}],
    ids=["many", "long"],
)
def test_too_many_end_the_stream(prefixes: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        declarations(prefixes)
    assert refused.value.condition is StreamCondition.POLICY_VIOLATION


def test_as_many_as_may_be_are_taken() -> None:
    assert len(declarations({f"p{n}": "urn:x" for n in range(16)})) == 16
    spent = len(b"xmlns:x='' ")
    assert len(declarations({"x": "u" * (1024 - spent)})) == 1


def test_a_stanza_declares_what_it_may_use_and_nothing_else() -> None:
    stanza = b"<message to='a'><x:y/></message>"
    expected = b"<message xmlns:x='urn:x' to='a'><x:y/></message>"
    assert declared(stanza, "message", TWO) == expected
    assert declared(b"<message to='a'/>", "message", TWO) == b"<message to='a'/>"


def test_what_a_stanza_binds_itself_is_not_declared_again() -> None:
    stanza = b"<message xmlns:x='urn:other' to='a'><x:y/></message>"
    assert declared(stanza, "message", TWO) == stanza


def test_only_what_occurs_from_there_on_is_looked_for_in_each() -> None:
    written = b"<a><db:x/></a><b><x:y/></b>"
    assert used_in(written, 0, TWO) == [DB, X]
    assert used_in(written, written.index(b"<b>"), TWO) == [X]
    assert used_in(b"<a/>", 0, TWO) == []
