"""The tables that the parsers judge by."""

from lxml import etree

from workers.xmpp import namespaces


def test_every_name_is_an_expanded_name() -> None:
    names = {*namespaces.STANZAS, *namespaces.NONZAS, *namespaces.FRAMING}
    for name in names:
        assert etree.QName(name).namespace and etree.QName(name).localname


def test_stanzas_are_those_of_the_server_namespace() -> None:
    assert namespaces.STANZAS == {
        f"{{jabber:server}}{name}": name for name in ("message", "presence", "iq")
    }


def test_no_name_is_in_two_tables() -> None:
    tables = (set(namespaces.STANZAS), namespaces.NONZAS, namespaces.FRAMING)
    assert sum(map(len, tables)) == len(set().union(*tables))
