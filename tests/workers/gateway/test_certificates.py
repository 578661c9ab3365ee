from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.workers.gateway.wire_bench import mint, mint_pem
from workers.gateway.certificates import (
    CertificateProblem,
    best_pair,
    load_pair,
    parse_pair,
)


def other_name(oid: str, tag: int, text: bytes) -> x509.OtherName:
    return x509.OtherName(x509.ObjectIdentifier(oid), bytes((tag, len(text))) + text)


def test_names_are_dns_names_srv_names_and_xmpp_addresses() -> None:
    pair = mint(
        "A.example",
        "*.b.example",
        other_names=[
            other_name("1.3.6.1.5.5.7.8.7", 22, b"_xmpp-server.c.example"),
            other_name("1.3.6.1.5.5.7.8.7", 22, b"_sip.d.example"),
            other_name("1.3.6.1.5.5.7.8.5", 12, b"e.example"),
            other_name("1.3.6.1.5.5.7.8.9", 12, b"f.example"),
        ],
    )

    assert pair.names == {"a.example", "*.b.example", "c.example", "e.example"}


def test_a_certificate_without_names_is_for_nobody() -> None:
    assert mint().names == frozenset()


@pytest.mark.parametrize("key_first", [True, False])
def test_what_is_no_pem_is_named(key_first: bool) -> None:
    certificate, key = mint_pem(["a.example"])
    pair = (b"nonsense", key) if key_first else (certificate, b"nonsense")

    with pytest.raises(CertificateProblem, match=r"^pair one: "):
        parse_pair(*pair, "pair one")


def test_a_key_of_another_certificate_is_refused() -> None:
    certificate, _ = mint_pem(["a.example"])
    _, key = mint_pem(["a.example"])

    with pytest.raises(CertificateProblem, match="does not belong"):
        parse_pair(certificate, key)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateProblem, match=r"absent\.pem: No such file"):
        load_pair(tmp_path / "absent.pem", tmp_path / "absent.key")


def test_validity_wins_then_the_exact_name_then_the_later_expiry() -> None:
    expired = mint("a.example", days=-1)
    wildcard = mint("*.example", days=90)
    short, long = mint("a.example", days=1), mint("a.example", days=2)

    assert best_pair([expired, wildcard], "a.example") is wildcard
    assert best_pair([wildcard, short, long], "a.example") is long
    assert best_pair([expired], "a.example") is expired
    assert best_pair([wildcard], "b.a.example") is None
    assert best_pair([], "a.example") is None


def test_the_key_is_usable() -> None:
    assert isinstance(mint("a.example").key, ec.EllipticCurvePrivateKey)
