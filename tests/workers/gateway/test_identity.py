import ssl
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.verification import Store
from hypothesis import given
from hypothesis import strategies as some

from coordinator.config import Certificates, Config, Remote
from coordinator.domains import normalise_domain
from tests.workers.gateway.certificate_cells import DOMAIN, Matrix
from tests.workers.gateway.x509_matrix import (
    CLIENT,
    NOW,
    SERVER,
    Authority,
    dns,
    self_signed,
    srv,
    xmpp_addr,
)
from workers.gateway.identity import (
    CertificateRejected,
    Trust,
    TrustProblem,
    TrustSources,
    VerifiedNames,
    _names,
    load_trust,
    spki_sha256,
    verify_chain,
    verify_peer,
)

AT = NOW.timestamp()
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def names(*, dns: set[str] = frozenset(), srv: set[str] = frozenset()) -> VerifiedNames:
    return VerifiedNames(frozenset(dns), frozenset(srv), frozenset(), AT)


@pytest.mark.parametrize("usage", [[SERVER], [SERVER, CLIENT], []], ids=["server", "both", "none"])
def test_certificates_of_servers_are_good_in_both_roles(authority, usage):
    leaf = authority.issue(dns("a.example", "*.b.example"), usage=usage)
    verified = verify_chain(leaf.chain, authority.trust, AT)
    assert verified.dns == {"a.example", "*.b.example"}
    assert verified.not_after == (NOW + 30 * DAY).timestamp()


def test_a_chain_with_an_intermediate_verifies(authority):
    leaf = Authority("Mid CA", authority).issue(dns("a.example"))
    assert verify_chain(leaf.chain, authority.trust, AT).covers("a.example")


def test_names_are_read_from_all_three_kinds_and_normalised(authority):
    other = [srv("_xmpp-server.B.example"), xmpp_addr("bücher.example")]
    leaf = authority.issue(dns("A.Example") + other)
    verified = verify_chain(leaf.chain, authority.trust, AT)
    assert verified.dns == {"a.example"}
    assert verified.srv == {"b.example"}
    assert verified.xmpp == {"xn--bcher-kva.example"}


def test_names_of_more_than_127_bytes_are_read(authority):
    long = ".".join(["x" * 60] * 3 + ["example"])
    leaf = authority.issue([xmpp_addr(long)])
    assert verify_chain(leaf.chain, authority.trust, AT).covers(long)


@pytest.mark.parametrize(
    "bad",
    [
        xmpp_addr("romeo@a.example"),
        xmpp_addr("a.example/home"),
        xmpp_addr("*.a.example"),
        srv("_xmpp-client.a.example"),
        srv("_xmpp-server.*.a.example"),
        srv("a.example"),
        dns("*.example")[0],
        dns("a*.a.example")[0],
        dns("b.*.example")[0],
        dns("a.example\0.evil.example")[0],
    ],
    ids=str,
)
def test_other_names_prove_nothing(authority, bad):
    with pytest.raises(CertificateRejected, match="the certificate names no domain"):
        verify_chain(authority.issue([bad]).chain, authority.trust, AT)


MATRIX = Matrix()


@pytest.mark.parametrize("cell", MATRIX.good(), ids=lambda cell: cell.name)
def test_good_certificates(cell):
    assert verify_peer(cell.leaf.chain, MATRIX.root.trust, AT, domain=DOMAIN)


@pytest.mark.parametrize("cell", MATRIX.bad(), ids=lambda cell: cell.name)
def test_bad_certificates(cell):
    assert cell.reason in _reason(cell)


def test_every_cause_of_rejection_has_its_own_words():
    assert len({_reason(cell) for cell in MATRIX.bad()}) == len(MATRIX.bad())


def _reason(cell):
    with pytest.raises(CertificateRejected) as caught:
        verify_peer(cell.leaf.chain, MATRIX.root.trust, AT, domain=DOMAIN)
    return caught.value.reason


def test_no_certificate_is_said_to_be_none(authority):
    with pytest.raises(CertificateRejected, match="no certificate was presented"):
        verify_chain([], authority.trust, AT)


def test_a_weak_elliptic_key_proves_nothing(authority):
    """Not in the matrix: TLS has no use for it."""
    leaf = authority.issue(dns("a.example"), key=ec.generate_private_key(ec.SECP192R1()))
    with pytest.raises(CertificateRejected, match="an elliptic key of less than 224 bits"):
        verify_chain(leaf.chain, authority.trust, AT)


def test_a_chain_is_good_until_the_first_of_it_lapses(authority):
    mid = Authority("Mid CA", authority, end=NOW + 5 * DAY)
    leaf = mid.issue(dns("a.example"), end=NOW + 9 * DAY)
    assert verify_chain(leaf.chain, authority.trust, AT).not_after == (NOW + 5 * DAY).timestamp()


def test_an_expired_authority_is_named():
    old = Authority("Old CA", start=NOW - 9 * DAY, end=NOW - DAY)
    with pytest.raises(CertificateRejected, match="trusted authority Old CA expired"):
        verify_chain(old.issue(dns("a.example")).chain, old.trust, AT)


def test_names_in_reasons_cannot_forge_log_lines():
    stranger = Authority("evil\r\n\x1b[31mall is well")
    with pytest.raises(CertificateRejected) as caught:
        verify_chain(stranger.issue(dns("a.example")).chain, Authority().trust, AT)
    assert caught.value.reason.isprintable()


def test_private_authorities_without_key_identifiers_are_accepted():
    bare = Authority(key_identifiers=False)
    assert verify_chain(bare.issue(dns("a.example")).chain, bare.trust, AT)


def test_a_self_signed_leaf_can_be_trusted_by_configuration():
    leaf = self_signed("a.example")
    trust = Trust("pinned.pem", tuple(leaf.chain), Store(leaf.chain))
    assert verify_chain(leaf.chain, trust, AT).covers("a.example")


def test_coverage_follows_rfc_6120():
    wildcard = names(dns={"*.a.example"})
    assert wildcard.covers("x.a.example")
    assert not wildcard.covers("a.example")
    assert not wildcard.covers("x.y.a.example")
    assert names(srv={"a.example"}).covers("a.example")
    assert not names(srv={"a.example"}).covers("x.a.example")
    assert not names().covers("example")


def test_delegated_hosts_are_covered_by_dns_names_only():
    assert names(dns={"gw.example"}).covers("a.example", {"gw.example"})
    assert names(dns={"*.hoster.example"}).covers("a.example", ["gw.hoster.example"])
    assert not names(dns={"gw.example"}).covers("a.example")
    assert not names(srv={"gw.example"}).covers("a.example", {"gw.example"})


def test_a_certificate_for_another_domain_is_rejected_with_both_names(authority):
    chain = authority.issue(dns("a.example")).chain
    assert verify_peer(chain, authority.trust, AT, domain="a.example").covers("a.example")
    with pytest.raises(CertificateRejected) as caught:
        verify_peer(
            chain, authority.trust, AT, domain="b.example", delegated_hosts={"gw.b.example"}
        )
    assert caught.value.reason == (
        "the certificate is for a.example, not for b.example or gw.b.example"
    )


def test_many_names_are_shown_in_short():
    text = str(names(dns={f"{n}.example" for n in range(10)}, srv={"a.example"}))
    assert text.endswith("7.example and 3 more")


def test_the_pin_is_the_hash_of_the_public_key(authority):
    leaf = authority.issue(dns("a.example"))
    renewed = authority.issue(dns("a.example"), key=leaf.key)
    assert spki_sha256(leaf.chain[0]) == spki_sha256(renewed.chain[0])
    assert len(spki_sha256(leaf.chain[0])) == 44


def test_bundles_are_read_and_broken_entries_left_out(tmp_path: Path, authority):
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"# ours\n" + broken + authority.pem)
    trust = load_trust(str(bundle))
    assert trust.authorities == (authority.certificate,)


def test_unusable_bundles_say_why(tmp_path: Path):
    with pytest.raises(TrustProblem, match=r"No such file.*correct"):
        load_trust(str(tmp_path / "none.pem"))
    (tmp_path / "empty.pem").write_text("hello")
    with pytest.raises(TrustProblem, match="it must be PEM"):
        load_trust(str(tmp_path / "empty.pem"))


def test_the_systems_bundle_is_found(tmp_path: Path, monkeypatch, authority):
    bundle = tmp_path / "system.pem"
    bundle.write_bytes(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert load_trust("system").path == str(bundle)


def test_old_roots_of_the_system_make_no_noise(tmp_path: Path, monkeypatch, authority):
    def load(pem: bytes) -> x509.Certificate:
        warnings.warn("odd serial number", CryptographyDeprecationWarning, stacklevel=1)
        return authority.certificate

    monkeypatch.setattr(x509, "load_pem_x509_certificate", load)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    assert load_trust(str(tmp_path / "ca.pem")).authorities


def test_a_system_without_bundle_is_told_what_to_do(monkeypatch):
    paths = ssl.get_default_verify_paths()._replace(cafile=None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr("workers.gateway.identity._SYSTEM_BUNDLES", ())
    with pytest.raises(TrustProblem, match="install ca-certificates"):
        load_trust("system")


def test_each_remote_domain_has_its_own_trust(tmp_path: Path, authority):
    partner = Authority("Partner CA")
    (tmp_path / "ours.pem").write_bytes(authority.pem)
    (tmp_path / "partner.pem").write_bytes(partner.pem)
    sources = TrustSources(
        Config(
            certificates=Certificates(trust=str(tmp_path / "ours.pem")),
            remote={"partner.example": Remote(trust=str(tmp_path / "partner.pem"))},
        )
    )
    assert sources.for_domain("partner.example").authorities == (partner.certificate,)
    ours = sources.for_domain("other.example")
    assert ours.authorities == (authority.certificate,)
    assert sources.for_domain("third.example") is ours
    sources.reload()
    assert sources.for_domain("third.example") is not ours


@given(some.binary(max_size=300))
def test_any_bytes_in_an_other_name_prove_nothing_but_a_domain(data):
    kinds = (srv("x").type_id, xmpp_addr("x").type_id)
    read = _names([x509.OtherName(kind, data) for kind in kinds], [_LEAF])
    for name in read.srv | read.xmpp:
        assert normalise_domain(name) == name


_LEAF = self_signed("a.example").chain[0]


def test_a_leaf_alone_is_good_when_its_intermediate_is_in_the_bundle(authority):
    """What nginx and Caddy can forward; that the root is there, too, does not suffice."""
    intermediate = Authority("Intermediate", authority)
    leaf = intermediate.issue(dns("a.example"))
    with pytest.raises(CertificateRejected):
        verify_chain(leaf.chain[:1], authority.trust, AT)
    bundle = (authority.certificate, intermediate.certificate)
    trust = Trust("bundle.pem", bundle, Store(list(bundle)))
    assert verify_chain(leaf.chain[:1], trust, AT).dns == {"a.example"}


def test_a_certificate_that_breaks_when_it_is_read_is_malformed(authority):
    """Not all that `cryptography` raises then is a ValueError."""
    x400 = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x04\xa3\x02\x05\x00")
    strange_name = authority.issue(None, critical=[x400]).chain[0]
    kinds = [x509.ObjectIdentifier(f"1.2.3.4.{last}") for last in (5, 6)]
    unknown = [x509.UnrecognizedExtension(kind, b"\x05\x00") for kind in kinds]
    der = authority.issue(dns("a.example"), critical=unknown).chain[0].public_bytes(Encoding.DER)
    twice = x509.load_der_x509_certificate(der.replace(b"\x2a\x03\x04\x06", b"\x2a\x03\x04\x05"))
    for leaf in (strange_name, twice):
        with pytest.raises(CertificateRejected, match="malformed"):
            verify_chain([leaf], authority.trust, AT)
