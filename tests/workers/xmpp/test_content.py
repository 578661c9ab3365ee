"""A stanza's content namespace: changed where it means the stream's, left alone in payloads."""

import pytest

from workers.xmpp.content import renamed, rewritten

OLD, NEW = b"jabber:server", b"jabber:component:accept"


def server_to_component(data: bytes) -> bytes:
    return renamed(data, "message", OLD, NEW)


@pytest.mark.parametrize("quote", [b"'", b'"'])
def test_one_declaration_is_replaced(quote: bytes) -> None:
    data = b"<message xmlns=%bjabber:server%b from='a@r.example'><body>hi</body></message>"
    assert server_to_component(data % (quote, quote)) == (
        b"<message xmlns=%bjabber:component:accept%b from='a@r.example'><body>hi</body></message>"
        % (quote, quote)
    )


def test_children_that_declare_it_again_follow() -> None:
    assert (
        server_to_component(
            b'<message xmlns="jabber:server" id="1"><body xmlns="jabber:server">hi</body> tail'
            b"</message>"
        )
        == b'<message xmlns="jabber:component:accept" id="1"><body>hi</body> tail</message>'
    )


def test_a_prefix_for_it_is_resolved() -> None:
    assert (
        server_to_component(
            b'<message xmlns="jabber:server" xmlns:s="jabber:server"><s:body>hi</s:body></message>'
        )
        == b'<message xmlns="jabber:component:accept"><body>hi</body></message>'
    )


def test_payloads_stay_as_they_are() -> None:
    inner = (
        b'<forwarded xmlns="urn:xmpp:forward:0"><message xmlns="jabber:server"><body>jabber:server'
        b'</body></message></forwarded><none xmlns=""><x/></none><odd xmlns="a b"/>'
    )
    assert server_to_component(b'<message xmlns="jabber:server">' + inner + b"</message>") == (
        b'<message xmlns="jabber:component:accept">' + inner + b"</message>"
    )


def test_prefixes_in_scope_stay_in_scope() -> None:
    data = (
        b'<message xmlns:q="urn:q" xmlns="jabber:server" q:a="1"><q:x type="q:name"/>'
        b'<body xmlns:z="urn:z" z:b="2">&lt;jabber:server&gt;</body></message>'
    )
    assert server_to_component(data) == data.replace(
        b'xmlns:q="urn:q" xmlns="jabber:server"', b'xmlns="jabber:component:accept" xmlns:q="urn:q"'
    )


def test_text_that_looks_like_a_declaration_is_text() -> None:
    data = b"<message xmlns='jabber:server'><body>xmlns='jabber:server'</body></message>"
    assert b"<body>xmlns='jabber:server'</body>" in server_to_component(data)


def test_there_and_back_is_the_same() -> None:
    data = (
        b'<message xmlns="jabber:server" from="a"><body xml:lang="en">x</body><error type="wait">'
        b'<gone xmlns="urn:ietf:params:xml:ns:xmpp-stanzas">\xc3\xa9 &amp; ]]&gt;</gone>'
        b"</error></message>"
    )
    back = rewritten(rewritten(data, "jabber:server", "x"), "x", "jabber:server")
    assert back == data


def test_another_sender() -> None:
    assert rewritten(b"<iq xmlns='jabber:server' from='A@R'/>", "jabber:server", "x", "A@r") == (
        b'<iq xmlns="x" from="A@r"/>'
    )
