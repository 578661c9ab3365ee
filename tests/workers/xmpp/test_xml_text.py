"""Text from outside is read back as it was, from content and from attributes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from workers.xmpp.xml_text import attribute, character_data

LEGAL = st.text(
    st.characters(
        exclude_categories=["Cs"],
        exclude_characters="".join(map(chr, {*range(32), 0xFFFE, 0xFFFF} - {9, 10, 13})),
    )
)


@given(LEGAL)
def test_text_survives(text: str) -> None:
    element = etree.fromstring(f"<a b={attribute(text)}>{character_data(text)}</a>".encode())
    assert element.get("b") == text
    assert (element.text or "") == text


@pytest.mark.parametrize("illegal", ["\0", "\x0b", "\x1f", "\ud800", "\udfff", "\ufffe", "\uffff"])
def test_what_xml_cannot_carry_is_replaced(illegal: str) -> None:
    assert character_data(f"a{illegal}b") == "a\ufffdb"
    assert attribute(f"a{illegal}b") == "'a\ufffdb'"


def test_no_tag_ends_early() -> None:
    """xmpp-proxy looks for the first `>`."""
    assert not set("<>") & set(attribute("<>'\"&") + character_data("<>&"))
