import pytest

from coordinator.domains import InvalidDomain, is_ambiguous, normalise_domain, written_domain


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("localhost", "localhost"),
        ("Exämple.org", "xn--exmple-cua.org"),
        ("XN--EXMPLE-CUA.org", "xn--exmple-cua.org"),
        ("_xmpp.example.org", "_xmpp.example.org"),
        ("ＥＸＡＭＰＬＥ。org", "example.org"),
        ("a" * 63 + ".org", "a" * 63 + ".org"),
    ],
)
def test_domains_become_lower_case_a_labels(text: str, domain: str) -> None:
    assert normalise_domain(text) == domain


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "a.b..",
        "bücher.example..",
        "a.example。",
        ".example.org",
        "-a.org",
        "a-.org",
        "a b.org",
        "a/b",
        "user@example.org",
        "[::1]",
        "a" * 64 + ".org",
        ".".join(["abcdefg"] * 33),
        "a\n.org",
        "ex\u200dample.org\u2028",
        "-ä.org",
    ],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(InvalidDomain):
        normalise_domain(text)


@pytest.mark.parametrize(
    ("text", "ambiguous"),
    [
        ("a.example", False),
        ("A.Example.", False),
        ("bücher.example", False),
        ("BÜCHER.example", False),
        ("xn--bcher-kva.example", False),
        ("a.example..", True),
        ("a。example", True),
        ("a．example", True),
        ("a｡example", True),
        ("a.example。", True),
        ("ａ.example", True),
        ("\u212a.example", True),  # the Kelvin sign
    ],
)
def test_spellings_that_others_read_differently_are_known(text: str, ambiguous: bool) -> None:
    assert is_ambiguous(text) is ambiguous


def test_servers_write_u_labels() -> None:
    assert written_domain("xn--exmple-cua.org") == "exämple.org"
    assert written_domain("example.org") == "example.org"
