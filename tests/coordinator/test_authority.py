import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from coordinator.authority import Authority, AuthorityProblem, Leaf, LeafRefusal, authority_for
from coordinator.config import Config


def certificate_of(leaf: Leaf) -> x509.Certificate:
    return x509.load_pem_x509_certificate(leaf.certificate_pem)


def test_a_leaf_verifies_for_its_domain_and_for_both_usages(tmp_path: Path):
    authority = Authority(tmp_path)
    certificate = certificate_of(authority.issue("b.example"))
    store = verification.Store([authority.certificate])
    verifier = verification.PolicyBuilder().store(store)
    verifier.build_server_verifier(x509.DNSName("b.example")).verify(certificate, [])
    verifier.build_client_verifier().verify(certificate, [])
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_a_leaf_lives_at_most_a_day_from_now(tmp_path: Path):
    now = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
    leaf = Authority(tmp_path).issue("b.example", now)
    certificate = certificate_of(leaf)
    assert certificate.not_valid_before_utc < now
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime <= datetime.timedelta(hours=24)
    assert leaf.not_after == certificate.not_valid_after_utc.timestamp()


def test_domains_are_normalised_and_long_ones_fit(tmp_path: Path):
    name = f"{'a' * 60}.{'b' * 60}.example"
    certificate = certificate_of(Authority(tmp_path).issue(name.upper() + "."))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]


@pytest.mark.parametrize("domain", ["a.example", "A.Example.", "not a domain", "*.example", ""])
def test_no_leaf_for_our_own_domains_and_for_what_is_none(tmp_path: Path, domain: str):
    with pytest.raises(LeafRefusal):
        Authority(tmp_path, ["a.example"]).issue(domain)


def test_the_authority_stays_the_same_and_its_secrets_are_private(tmp_path: Path):
    first, second = Authority(tmp_path), Authority(tmp_path)
    assert first.certificate == second.certificate
    assert first.dialback_secret == second.dialback_secret
    assert len(first.dialback_secret) >= 32
    for name in ("ca.key", "dialback.secret"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        (tmp_path / name).chmod(0o644)
    Authority(tmp_path)
    for name in ("ca.key", "dialback.secret"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    own = (tmp_path / "ca.pem").read_bytes()
    assert (tmp_path / "ca.pem").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "ca-bundle.pem").read_bytes().endswith(own)
    assert b"PRIVATE" not in (tmp_path / "ca-bundle.pem").read_bytes()


def test_machines_with_one_secret_file_share_authority_and_dialback_secret(tmp_path: Path):
    secret = str(tmp_path / "secret.pem")
    machines = [tmp_path / name for name in ("one", "two")]
    for machine in machines:
        machine.mkdir()
    first, second = (Authority(machine, (), secret) for machine in machines)
    assert first.certificate == second.certificate
    assert first.dialback_secret == second.dialback_secret
    assert Path(secret).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "one" / "ca.key").exists()
    assert (tmp_path / "one" / "ca.pem").read_bytes() == (tmp_path / "two" / "ca.pem").read_bytes()


def test_damage_is_said_in_one_line(tmp_path: Path):
    Authority(tmp_path)
    (tmp_path / "ca.key").write_text("nonsense")
    with pytest.raises(AuthorityProblem, match=r"damaged .*; restore both"):
        Authority(tmp_path)


def test_a_key_of_another_authority_is_refused(tmp_path: Path):
    (tmp_path / "other").mkdir()
    Authority(tmp_path)
    Authority(tmp_path / "other")
    (tmp_path / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(AuthorityProblem, match="is not that of"):
        Authority(tmp_path)


def test_a_short_dialback_secret_is_refused(tmp_path: Path):
    (tmp_path / "dialback.secret").write_text("short")
    with pytest.raises(AuthorityProblem, match="32 characters"):
        Authority(tmp_path)


def test_a_missing_directory_is_said_in_one_line(tmp_path: Path):
    with pytest.raises(AuthorityProblem, match=r"cannot use .*; make"):
        Authority(tmp_path / "none")


def test_the_configured_authority_refuses_the_gateways_domains(config: Config):
    with pytest.raises(LeafRefusal, match="a domain of the local server"):
        authority_for(config).issue("a.example")
