"""Stanzas of the benchmark are legal, numbered, and as long as they were asked to be."""

import pytest
from lxml import etree

from loadtest.bench.stanzas import XMLNS, encode, in_stream, numbers


@pytest.mark.parametrize("mixed", [False, True])
def test_stanzas_have_the_size_that_was_asked_for(mixed: bool) -> None:
    for number in range(10):
        data = encode("a.example", "b.example", number, size=300, mixed=mixed)
        assert len(data) == 300
        stanza = etree.fromstring(data)
        assert stanza.get("id") == f"n{number:08}"
        assert stanza.get("from") == "juliet@a.example/balcony"


def test_mixed_traffic_has_all_three_kinds() -> None:
    stanzas = [etree.fromstring(encode("a.example", "b.example", n, mixed=True)) for n in range(10)]
    names = [etree.QName(stanza).localname for stanza in stanzas]
    assert {name: names.count(name) for name in names} == {"message": 6, "presence": 2, "iq": 2}


def test_numbers_are_found_in_a_run_of_stanzas() -> None:
    stanzas = [encode("a.example", "b.example", number) for number in (7, 8, 9)]
    assert [int(digits) for digits in numbers(b"".join(stanzas))] == [7, 8, 9]


def test_inside_a_stream_the_header_has_the_namespace() -> None:
    stanzas = [encode("a.example", "b.example", number) for number in (1, 2)]
    assert XMLNS not in in_stream(stanzas)
    assert len(in_stream(stanzas)) == sum(map(len, stanzas)) - 2 * len(XMLNS)


def test_the_smallest_is_about_as_small_as_one_can_be() -> None:
    data = encode("capulet.example", "montague.example", 1, size=100)
    assert 90 <= len(data) <= 110
    assert etree.fromstring(data).get("id") == "n00000001"
