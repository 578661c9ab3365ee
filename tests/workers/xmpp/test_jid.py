"""The domain of an address, and how little an address may cost."""

import pytest

from workers.xmpp import jid
from workers.xmpp.jid import AmbiguousJid, InvalidJid, domain_of


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("romeo@Montague.Example/orchard", "montague.example"),
        ("a.example/x@b.example", "a.example"),
        ("a.example.", "a.example"),
    ],
)
def test_the_domain_is_found_behind_the_resource(text: str, domain: str) -> None:
    assert domain_of(text) == jid.domains[text] == domain


@pytest.mark.parametrize("text", ["", "@a.example", "a@b@c.example", "a.example/", "a" * 3072])
def test_what_is_no_jid_is_refused_every_time(text: str) -> None:
    for _ in range(2):
        with pytest.raises(InvalidJid):
            domain_of(text)


def test_an_ambiguous_domain_says_how_we_read_it() -> None:
    for _ in range(2):
        with pytest.raises(AmbiguousJid) as caught:
            domain_of("a@b.example../c..")
        assert caught.value.domain == "b.example"
        assert caught.value.plain == "a@b.example/c.."


def test_long_jids_are_not_remembered_and_the_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jid, "domains", {})
    monkeypatch.setattr(jid, "_CACHE_SIZE", 10)
    long = "a.example/" + "x" * 247
    assert domain_of(long) == "a.example" and not jid.domains
    assert domain_of(long[:-1]) == "a.example" and len(jid.domains) == 1
    for number in range(100):
        domain_of(f"{number}@a.example")
        assert len(jid.domains) <= 10
